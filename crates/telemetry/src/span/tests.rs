// SPDX-License-Identifier: Apache-2.0
//! The recorder is one for the process, so these tests share it: each looks at its own container.

use super::*;

fn ended_of(container: &str) -> Vec<Record> {
    let (records, _) = recorder::ended(0, recorder::KEPT, |record| {
        let scope = record.scope.as_deref();
        scope.is_some_and(|scope| &*scope.container == container)
    });
    records.into_iter().map(|(_, record)| record).collect()
}

#[test]
fn parts_nest_across_threads_and_end_before_what_they_are_part_of() {
    recorder::set_recording(true);
    let trace = Trace::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let call = Call::begin("Create", "nest", "e", trace);
    let context = call.context();
    std::thread::spawn(move || {
        let _entered = context.enter();
        let outer = span("outer");
        traced("inner", || Ok::<_, ()>(())).unwrap();
        outer.done();
        traced("broken", || Err::<(), _>(())).unwrap_err();
    })
    .join()
    .unwrap();
    let active = recorder::active();
    assert!(
        active
            .iter()
            .any(|r| r.id == call.handle.id && r.outcome == Outcome::Active)
    );
    call.end(Outcome::Failed(5));

    let records = ended_of("nest");
    let names: Vec<_> = records.iter().map(|record| record.name).collect();
    assert_eq!(names, ["inner", "outer", "broken", "Create"]);
    let [inner, outer, broken, create] = &records[..] else {
        panic!()
    };
    assert_eq!((inner.parent, outer.parent), (outer.id, create.id));
    assert_eq!((broken.parent, create.parent), (create.id, 0));
    assert_eq!(broken.outcome, Outcome::Failed(0));
    assert_eq!(create.outcome, Outcome::Failed(5));
    assert!(outer.duration >= inner.duration && create.duration >= outer.duration);
    assert!(
        records
            .iter()
            .all(|record| record.trace.as_deref() == trace.as_ref())
    );
    assert_eq!(&*create.scope.as_ref().unwrap().exec, "e");
}

#[test]
fn a_thread_goes_back_to_what_it_was_doing() {
    recorder::set_recording(true);
    let (a, b) = (
        Call::begin("A", "a", "", None),
        Call::begin("B", "b", "", None),
    );
    let of = |context: &Context| context.scope().map(|scope| scope.container.to_string());
    let entered = a.context().enter();
    {
        let _entered = b.context().enter();
        assert_eq!(of(&Context::current()).as_deref(), Some("b"));
    }
    assert_eq!(of(&Context::current()).as_deref(), Some("a"));
    drop(entered);
    assert_eq!(of(&Context::current()), None);
    a.forget();
    b.forget();
    assert!(ended_of("a").is_empty());
}

#[test]
fn a_trail_tells_what_was_done_and_what_failed() {
    recorder::set_recording(true);
    let call = Call::begin("Create", "trail", "", None);
    let context = call.context();
    let _entered = context.clone().enter();
    traced("load spec", || Ok::<_, ()>(())).unwrap();
    let init = context.add("init", recorder::now(), 9_000, Outcome::Done);
    init.add("pivot root", recorder::now(), 7_000, Outcome::Failed(2));
    let trail = context.trail();
    assert!(trail.starts_with("load spec "), "{trail}");
    assert!(
        trail.ends_with("init 9 us, pivot root 7 us FAILED (2)"),
        "{trail}"
    );
    call.forget();
    assert_eq!(Context::default().trail(), "");
}

/// The budget is a microsecond in a release build. Prints what it is here.
#[test]
fn a_span_costs_little() {
    const ROUNDS: u32 = 20_000;
    recorder::set_recording(true);
    let call = Call::begin("Create", "cost", "", None);
    let _entered = call.context().enter();
    let best = (0..5)
        .map(|_| {
            let begin = std::time::Instant::now();
            for _ in 0..ROUNDS {
                span("part").done();
            }
            begin.elapsed() / ROUNDS
        })
        .min()
        .unwrap();
    call.forget();
    println!("a span takes {} ns", best.as_nanos());
    let begin = std::time::Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(recorder::now());
    }
    // The clock is read twice. Where that is a system call (User Mode Linux) there is nothing else to see.
    let clocks = begin.elapsed() / ROUNDS * 4;
    // Ten times the budget: this is a debug build, on a machine with other things to do.
    let limit = std::time::Duration::from_micros(10) + clocks;
    assert!(
        best < limit,
        "{best:?}, of which the clock takes {clocks:?}"
    );
}
