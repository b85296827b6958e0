//! One line for each step, with the time that it has taken; updated in place on a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Without a terminal, a step that goes on says so this often.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Counts steps and prints them to standard error, so that standard output stays a command's answer.
#[derive(Debug)]
pub struct Progress {
    step: usize,
    steps: usize,
    title: String,
    state: String,
    started: Instant,
    said: Instant,
    terminal: bool,
}

impl Progress {
    /// Progress over a known number of steps.
    pub fn new(steps: usize) -> Self {
        let now = Instant::now();
        Self {
            step: 0,
            steps,
            title: String::new(),
            state: String::new(),
            started: now,
            said: now,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// The next step starts.
    pub fn begin(&mut self, title: &str) {
        self.step += 1;
        title.clone_into(&mut self.title);
        self.state.clear();
        self.started = Instant::now();
    }

    /// Something to know before the step goes on, on a line of its own.
    #[allow(clippy::unused_self, reason = "what is said belongs to the step")]
    pub fn note(&self, text: &str) {
        let _ = writeln!(io::stderr(), "  {text}");
    }

    /// What the step is doing now.
    pub fn doing(&mut self, state: &str) {
        state.clone_into(&mut self.state);
        self.said = Instant::now();
        self.print(false);
    }

    /// To be called now and then while the step goes on.
    pub fn tick(&mut self) {
        if self.terminal {
            self.print(false);
        } else if self.said.elapsed() >= HEARTBEAT {
            self.said = Instant::now();
            self.print(false);
        }
    }

    /// The step is done.
    pub fn end(&mut self, state: &str) {
        state.clone_into(&mut self.state);
        self.print(true);
    }

    /// Ends a line that was being updated, so that an error starts on its own.
    pub fn interrupt(&self) {
        if self.terminal {
            let _ = writeln!(io::stderr());
        }
    }

    fn print(&self, done: bool) {
        let time = self.started.elapsed();
        let state = if done { self.state.clone() } else { format!("{} …", self.state) };
        let mut line = format!("  [{}/{}] {:<18} {state:<11}", self.step, self.steps, self.title);
        // Without a terminal this line announces the step: no time has passed yet.
        if done || self.terminal || time >= HEARTBEAT {
            line = format!("{line} {}", elapsed(time));
        }
        let mut out = io::stderr().lock();
        // Progress that nobody can see is no reason to stop.
        let _ = match (self.terminal, done) {
            (true, true) => writeln!(out, "\r\x1b[K{line}"),
            (true, false) => write!(out, "\r\x1b[K{line}").and_then(|()| out.flush()),
            (false, _) => writeln!(out, "{}", line.trim_end()),
        };
    }
}

/// `0.4 s`, `12 s`, `2m03s`.
pub fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(elapsed(Duration::from_millis(420)), "0.4 s");
        assert_eq!(elapsed(Duration::from_secs(12)), "12 s");
        assert_eq!(elapsed(Duration::from_secs(123)), "2m03s");
    }
}
