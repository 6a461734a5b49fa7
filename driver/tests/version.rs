//! The module's version is that of the workspace, as DKMS compares it with the package's.

#[test]
fn the_module_has_the_version_of_the_workspace() {
    let source = include_str!("../shim/main.c");
    let wanted = concat!("MODULE_VERSION(\"", env!("CARGO_PKG_VERSION"), "\");");
    assert!(source.lines().any(|line| line == wanted), "{wanted}");
}
