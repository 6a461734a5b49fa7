//! The styles of what people read. They are dropped where it goes to no terminal.

use anstyle::{AnsiColor, Color, Style};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GREEN: Style = coloured(AnsiColor::Green);
pub(crate) const RED: Style = coloured(AnsiColor::Red);
pub(crate) const YELLOW: Style = coloured(AnsiColor::Yellow);
pub(crate) const CYAN: Style = coloured(AnsiColor::Cyan);

const fn coloured(color: AnsiColor) -> Style {
    Style::new().bold().fg_color(Some(Color::Ansi(color)))
}
