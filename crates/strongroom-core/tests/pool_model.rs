//! The pool against a model that keeps one `bool` a page and searches by looking.

use proptest::prelude::*;
use strongroom_core::pool::RunPool;

#[derive(Clone, Debug)]
enum Step {
    Take(usize),
    TakeHighest(usize),
    TakeAligned(usize, usize, usize),
    TakeAt(usize, usize),
    Give(usize, usize),
    /// Gives back part of a run that is taken, so that giving often succeeds.
    GiveNear(usize, usize),
}

/// True is free.
struct Model(Vec<bool>);

impl Model {
    fn range(&self, start: usize, n: usize) -> Option<&[bool]> {
        let end = start.checked_add(n)?;
        if n == 0 { None } else { self.0.get(start..end) }
    }

    fn all(&self, start: usize, n: usize, free: bool) -> bool {
        self.range(start, n)
            .is_some_and(|pages| pages.iter().all(|&page| page == free))
    }

    fn change(&mut self, start: usize, n: usize, free: bool) -> bool {
        let possible = self.all(start, n, !free);
        if possible {
            self.0[start..start + n].fill(free);
        }
        possible
    }

    fn take_aligned(&mut self, n: usize, align: usize, phase: usize) -> Option<usize> {
        if n == 0 || !align.is_power_of_two() {
            return None;
        }
        let mut run = 0;
        for page in 0..self.0.len() {
            run = if self.0[page] { run + 1 } else { 0 };
            if run < n {
                continue;
            }
            // The latest start whose run ends here; each start is seen once.
            let start = page + 1 - n;
            if start.wrapping_add(phase).is_multiple_of(align) {
                self.0[start..start + n].fill(false);
                return Some(start);
            }
        }
        None
    }

    fn take_highest(&mut self, n: usize) -> Option<usize> {
        if n == 0 || n > self.0.len() {
            return None;
        }
        let start = (0..=self.0.len() - n)
            .rev()
            .find(|&start| self.all(start, n, true))?;
        self.0[start..start + n].fill(false);
        Some(start)
    }

    fn largest(&self) -> usize {
        self.0
            .split(|&free| !free)
            .map(<[bool]>::len)
            .max()
            .unwrap_or(0)
    }
}

/// Mostly short runs, some of many words, some of many nodes.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 1_usize..9,
        5 => 1_usize..140,
        2 => 1_usize..1200,
        1 => 1_usize..5100,
        1 => prop_oneof![Just(0), Just(64), Just(512), Just(usize::MAX)],
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let page = || 0_usize..5100;
    let phase = prop_oneof![3 => Just(0_usize), 2 => 0_usize..5000, 1 => any::<usize>()];
    // Every power of two that matters and, rarely, a number that is none.
    let align = prop_oneof![
        12 => (0_u32..13).prop_map(|log| 1_usize << log),
        1 => Just(1_usize << (usize::BITS - 1)),
        1 => 0_usize..100,
    ];
    prop_oneof![
        4 => length().prop_map(Step::Take),
        3 => length().prop_map(Step::TakeHighest),
        4 => (length(), align, phase).prop_map(|(n, align, phase)| Step::TakeAligned(n, align, phase)),
        3 => (page(), length()).prop_map(|(start, n)| Step::TakeAt(start, n)),
        2 => (page(), length()).prop_map(|(start, n)| Step::Give(start, n)),
        5 => (page(), length()).prop_map(|(start, n)| Step::GiveNear(start, n)),
    ]
}

/// A pool that only ever sees whole multiples of `unit` pages, a power of two: it must
/// answer as a pool with that many fewer pages does.
struct Scaled<'a> {
    pool: RunPool<'a>,
    unit: usize,
}

impl Scaled<'_> {
    fn down(&self, pages: usize) -> usize {
        assert_eq!(pages % self.unit, 0);
        pages / self.unit
    }

    fn up(&self, units: usize) -> usize {
        units.saturating_mul(self.unit)
    }

    fn take(&mut self, n: usize) -> Option<usize> {
        let start = self.pool.take(self.up(n))?;
        Some(self.down(start))
    }

    fn take_highest(&mut self, n: usize) -> Option<usize> {
        let start = self.pool.take_highest(self.up(n))?;
        Some(self.down(start))
    }

    fn take_aligned(&mut self, n: usize, align: usize, phase: usize) -> Option<usize> {
        // `phase` counts modulo a power of two, so it may wrap.
        let phase = phase.wrapping_mul(self.unit);
        let start = self.pool.take_aligned(self.up(n), self.up(align), phase)?;
        Some(self.down(start))
    }

    fn take_at(&mut self, start: usize, n: usize) -> bool {
        self.pool.take_at(self.up(start), self.up(n))
    }

    fn give(&mut self, start: usize, n: usize) -> bool {
        self.pool.give(self.up(start), self.up(n))
    }

    fn is_free(&self, start: usize, n: usize) -> bool {
        self.pool.is_free(self.up(start), self.up(n))
    }

    fn is_taken(&self, start: usize, n: usize) -> bool {
        self.pool.is_taken(self.up(start), self.up(n))
    }

    fn free_pages(&self) -> usize {
        self.down(self.pool.free_pages())
    }

    fn largest_free_run(&self) -> usize {
        self.down(self.pool.largest_free_run())
    }
}

fn run(unit: usize, pages: usize, all_free: bool, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut metadata = vec![0; RunPool::metadata_words(pages * unit)];
    let mut pool = Scaled {
        pool: RunPool::new(pages * unit, &mut metadata),
        unit,
    };
    let mut model = Model(vec![false; pages]);
    if all_free {
        prop_assert!(pool.give(0, pages));
        model.0.fill(true);
    }
    for step in steps {
        match *step {
            Step::Take(n) => prop_assert_eq!(pool.take(n), model.take_aligned(n, 1, 0)),
            Step::TakeHighest(n) => prop_assert_eq!(pool.take_highest(n), model.take_highest(n)),
            // An alignment that does not fit a `usize` any more asks for nothing.
            Step::TakeAligned(_, align, _) if align.checked_mul(unit).is_none() => {}
            Step::TakeAligned(n, align, phase) => {
                prop_assert_eq!(
                    pool.take_aligned(n, align, phase),
                    model.take_aligned(n, align, phase)
                );
            }
            Step::TakeAt(start, n) => {
                prop_assert_eq!(pool.is_free(start, n), model.all(start, n, true));
                prop_assert_eq!(pool.take_at(start, n), model.change(start, n, false));
            }
            Step::Give(start, n) => {
                prop_assert_eq!(pool.is_taken(start, n), model.all(start, n, false));
                prop_assert_eq!(pool.give(start, n), model.change(start, n, true));
            }
            Step::GiveNear(near, n) => {
                let near = near % pages;
                let Some(skip) = model.0[near..].iter().position(|&free| !free) else {
                    continue;
                };
                let start = near + skip;
                let taken = model.0[start..].iter().take_while(|&&free| !free).count();
                let n = n.clamp(1, taken);
                prop_assert!(pool.is_taken(start, n));
                prop_assert!(pool.give(start, n));
                prop_assert!(model.change(start, n, true));
            }
        }
        prop_assert_eq!(
            pool.free_pages(),
            model.0.iter().filter(|&&free| free).count()
        );
        prop_assert_eq!(pool.largest_free_run(), model.largest());
    }
    // Every page, not only those that the steps asked about.
    for (page, &free) in model.0.iter().enumerate() {
        prop_assert_eq!(pool.is_free(page, 1), free);
        prop_assert_eq!(pool.is_taken(page, 1), !free);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_answers_as_the_model_does(
        pages in prop_oneof![1_usize..5000, 1_usize..200, Just(64_usize), Just(512_usize), Just(4096_usize)],
        all_free: bool,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        run(1, pages, all_free, &steps)?;
    }

    /// Every page free or taken at random: many runs of each length, at every place.
    #[test]
    fn aligned_runs_are_found_among_many_fragments(
        pages in 1_usize..5000,
        holes in proptest::collection::vec((0_usize..5000, 1_usize..90), 0..150),
        wants in proptest::collection::vec(
            (prop_oneof![1_usize..20, 1_usize..200, 1_usize..1000], 0_u32..11, 0_usize..3000),
            1..40,
        ),
    ) {
        let holes = holes.iter().map(|&(start, n)| Step::TakeAt(start, n));
        let wants = wants.iter().map(|&(n, log, phase)| Step::TakeAligned(n, 1 << log, phase));
        run(1, pages, true, &holes.chain(wants).collect::<Vec<_>>())?;
    }
}

proptest! {
    // Fewer: these pools have 16 million pages and their runs thousands of words.
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_as_large_as_the_heap_answers_as_the_model_does(
        pages in 1_usize..5000,
        all_free: bool,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        run(4096, pages, all_free, &steps)?;
    }
}
