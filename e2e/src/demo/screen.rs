//! What the demo prints: colours and a line that changes on a terminal, plain lines elsewhere.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Without a terminal, a wait says this often that it goes on.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Standard output.
#[derive(Debug)]
pub struct Screen {
    colours: bool,
    terminal: bool,
    /// Whether a line stands there that the next one replaces.
    passing: bool,
    said: Instant,
}

/// How a piece of text looks on a terminal.
#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// A command, or a heading.
    Bold,
    /// Good news.
    Good,
    /// Bad news.
    Bad,
    /// Beside the point.
    Faint,
}

impl Screen {
    /// Standard output as it is.
    pub fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let colours = terminal && env::var_os("NO_COLOR").is_none();
        Self { colours, terminal, passing: false, said: Instant::now() }
    }

    /// A line.
    pub fn line(&mut self, text: &str) {
        self.said = Instant::now();
        let mut out = io::stdout().lock();
        let clear = if std::mem::take(&mut self.passing) { "\r\x1b[K" } else { "" };
        // A reader that has gone (`| head`) is no reason to stop.
        let _ = writeln!(out, "{clear}{text}").and_then(|()| out.flush());
    }

    /// A wait that goes on: a line that the next one replaces; without a terminal now and then a line.
    pub fn waiting(&mut self, text: &str) {
        if self.terminal {
            self.passing = true;
            let mut out = io::stdout().lock();
            let _ = write!(out, "\r\x1b[K{}", self.paint(Look::Faint, text)).and_then(|()| out.flush());
        } else if self.said.elapsed() >= HEARTBEAT {
            self.line(text);
        }
    }

    /// Text as it looks on this screen.
    pub fn paint(&self, look: Look, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match look {
            Look::Bold => "1",
            Look::Good => "32",
            Look::Bad => "31",
            Look::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
