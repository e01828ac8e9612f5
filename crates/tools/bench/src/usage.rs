//! What a real workload uses: CPU time and memory of all its processes, and lines of user code.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::sys::resource::{Usage as Rusage, UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::measure::{Measured, timed};
use crate::proc::{self, ProcessTree};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds, of user and system.
    pub cpu: f64,
    /// The most at any moment (PSS), in MB.
    pub memory: f64,
    pub lines: usize,
}

/// Runs `work` once, in seconds, and says what it has used, `lines` of user code included. `context`, for
/// instance a pool, is there before the time begins and is dropped after its end.
pub fn measure<C, T>(
    lines: usize,
    context: C,
    work: impl FnOnce(&C) -> Result<T>,
    check: impl FnOnce(T) -> Result<()>,
) -> Result<Measured> {
    let before = cpu_time()?;
    let sampler = Sampler::start();
    let (time, result) = timed(|| work(&context))?;
    let (memory, sampling) = sampler.stop()?;
    drop(context);
    let cpu = cpu_time()?.saturating_sub(before).saturating_sub(sampling).as_secs_f64();
    check(result)?;
    Ok(Measured { usage: Some(Usage { cpu, memory, lines }), ..Measured::new(time.as_secs_f64()) })
}

/// The CPU time of this process and of all its descendants, those that have ended included.
fn cpu_time() -> Result<Duration> {
    let ended = used(UsageWho::RUSAGE_SELF)? + used(UsageWho::RUSAGE_CHILDREN)?;
    // One that has just ended counts among the children.
    let running = proc::process_tree()?.into_iter().skip(1).filter_map(|pid| proc::cpu_time(&[pid]).ok());
    Ok(ended + running.sum())
}

fn used(who: UsageWho) -> Result<Duration> {
    let usage: Rusage = getrusage(who)?;
    let duration = |time: TimeVal| {
        let seconds = Duration::from_secs(time.tv_sec().try_into().unwrap_or(0));
        seconds + Duration::from_micros(time.tv_usec().try_into().unwrap_or(0))
    };
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

/// Sampling takes no more than a twentieth of a CPU.
const SHARE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// A thread that samples the memory of all processes.
struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<Result<(f64, Duration)>>,
}

impl Sampler {
    fn start() -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let (mut peak, mut process_tree) = (0.0_f64, ProcessTree::default());
            loop {
                let start = Instant::now();
                peak = peak.max(memory(process_tree.refresh()?));
                let pause = PAUSE.max(start.elapsed() * SHARE);
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    peak = peak.max(memory(process_tree.refresh()?));
                    return Ok((peak / 1e3, used(UsageWho::RUSAGE_THREAD)?));
                }
            }
        });
        Self { stop, thread }
    }

    /// The peak in MB, and the CPU time that sampling has taken.
    fn stop(self) -> Result<(f64, Duration)> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the sampler panicked"))?
    }
}

/// Of all processes together, in kB. One that has just ended has none.
fn memory(process_tree: &[u32]) -> f64 {
    process_tree.iter().filter_map(|&pid| proc::proportional(pid).ok()).sum()
}

/// How many lines of `source` stand between `// user code: NAME` and `// end`, without blank lines and
/// comments. There may be several such parts.
pub fn user_lines(source: &str, name: &str) -> usize {
    let (begin, mut inside, mut count) = (format!("// user code: {name}"), false, 0);
    for line in source.lines().map(str::trim) {
        if line == begin {
            inside = true;
        } else if line == "// end" {
            inside = false;
        } else if inside && !line.is_empty() && !line.starts_with("//") {
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn only_code_between_the_markers_counts() {
        let source = "
            let setup = 1;
            // user code: words
            let pool = 2;

            // why
            let result = 3; // the result
            // end
            // user code: other
            let other = 4;
            // end
            // user code: words
            drop(result);
            // end
        ";
        assert_eq!(user_lines(source, "words"), 3);
        assert_eq!(user_lines(source, "other"), 1);
        assert_eq!(user_lines(source, "word"), 0);
    }

    #[test]
    fn the_time_of_a_child_counts() {
        let loops = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let busy = |(): &()| Ok(Command::new("sh").args(["-c", loops]).status()?);
        let measured = measure(7, (), busy, |_| Ok(())).unwrap();
        let usage = measured.usage.unwrap();
        assert!(usage.cpu > 0.05, "{usage:?}");
        assert!(measured.value > 0.05, "{measured:?}");
        assert_eq!(usage.lines, 7);
    }

    #[test]
    fn the_memory_of_a_child_counts() {
        let holds = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo; read _";
        let hold = |(): &()| {
            let mut child = Command::new("sh");
            let mut child = child.args(["-c", holds]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let mut line = [0];
            child.stdout.take().map(|mut output| output.read(&mut line)).transpose()?;
            Ok(child)
        };
        let end = |mut child: Child| {
            let _ = (child.kill(), child.wait());
            Ok(())
        };
        let usage = measure(1, (), hold, end).unwrap().usage.unwrap();
        assert!(usage.memory > 40.0, "{usage:?}");
    }
}
