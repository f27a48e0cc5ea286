// SPDX-License-Identifier: Apache-2.0
//! The shim's threads, and where in the kernel they are.
//!
//! The reactor reads this. Of a process's own threads, `stat`, `wchan` and `syscall` take no lock that an
//! operation of another thread could hold for long: not the one of the address space, and that of
//! execve only while somebody executes, which a server never does.

use diagnostics::v1;

/// Nanoseconds of a clock tick: USER_HZ is 100 on every architecture that we run on.
const TICK: u64 = 10_000_000;

/// All threads of this process.
pub(super) fn describe() -> v1::ThreadsResponse {
    let mut response = v1::ThreadsResponse::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return response;
    };
    let ids = tasks.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.parse::<i32>().ok()
    });
    response.threads = ids.filter_map(thread).collect();
    response.threads.sort_by_key(|thread| thread.id);
    response
}

/// One thread; `None` if it has ended meanwhile.
fn thread(id: i32) -> Option<v1::Thread> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/task/{id}/{file}"));
    let stat = read("stat").ok()?;
    let mut thread = v1::Thread::new();
    thread.id = id;
    parse_stat(&stat, &mut thread)?;
    let wchan = read("wchan").unwrap_or_default();
    thread.wchan = Some(wchan.trim())
        .filter(|w| *w != "0")
        .unwrap_or_default()
        .to_owned();
    thread.syscall = read("syscall").unwrap_or_default().trim().to_owned();
    Some(thread)
}

/// `id (name) state …`: the name may hold anything, parentheses too.
fn parse_stat(stat: &str, thread: &mut v1::Thread) -> Option<()> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    thread.name = name.to_owned();
    thread.state = fields.next()?.to_owned();
    // utime and stime are the 14th and 15th field; the state was the third.
    let mut ticks = fields.skip(10);
    let mut time = || Some(ticks.next()?.parse::<u64>().ok()?.saturating_mul(TICK));
    thread.user_ns = time()?;
    thread.system_ns = time()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_described_whatever_it_is_called() {
        let mut thread = v1::Thread::new();
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 10 0 0 0 12 34 0 0 20 0 1 0 100";
        parse_stat(stat, &mut thread).unwrap();
        assert_eq!(
            (thread.name.as_str(), thread.state.as_str()),
            ("a) b) (c", "S")
        );
        assert_eq!(
            (thread.user_ns, thread.system_ns),
            (120_000_000, 340_000_000)
        );
        assert!(parse_stat("7 (x", &mut thread).is_none());
    }

    #[test]
    fn all_threads_are_there() {
        let named = std::thread::Builder::new().name("obs-test".into());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = named
            .spawn(move || {
                // Ends when the sender is dropped.
                let _ = stopped.recv();
            })
            .unwrap();
        let found = (0..1000).any(|_| {
            std::thread::yield_now();
            let threads = describe().threads;
            threads.iter().any(|thread| thread.name == "obs-test")
        });
        drop(stop);
        thread.join().unwrap();
        assert!(found);
    }
}
