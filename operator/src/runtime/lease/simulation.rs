//! Several replicas, one Lease, and everything that goes wrong between them: two must never lead at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::election::{Election, Record, Step, Timing};

/// One step of the true clock. All times are in milliseconds.
const TICK: u64 = 50;
/// When all is well again, and the end.
const CALM: u64 = 170_000;
const END: u64 = 260_000;
const TIMING: (u64, u64, u64) = (15_000, 10_000, 2_000);

/// What happens to a replica.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Stopped for so long, as by SIGSTOP: it does nothing, and its clock goes on.
    Pause(u64),
    /// Nothing that it sends in this time is answered; half of it arrives all the same.
    CutOff(u64),
    /// Dies, and another process takes its place.
    Restart,
    /// Gives the lease back, if it has it.
    Release,
}

fn faults() -> impl Strategy<Value = Vec<(u64, usize, Fault)>> {
    let fault = prop_oneof![
        (0..40_000_u64).prop_map(Fault::Pause),
        (0..40_000_u64).prop_map(Fault::CutOff),
        Just(Fault::Restart),
        Just(Fault::Release),
    ];
    prop::collection::vec((0..120_000_u64, 0..3_usize, fault), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Clocks run up to a tenth too fast or too slow, and have nothing to do with each other.
    #[test]
    fn never_two_leaders_and_always_one_again(
        seed in any::<u64>(),
        rates in prop::array::uniform3(900..=1100_u64),
        faults in faults(),
        deleted in prop::option::of(10_000..120_000_u64),
    ) {
        let mut world = World::new(seed, rates);
        let restarts = faults.iter().any(|(_, _, fault)| matches!(fault, Fault::Restart));
        while world.now < END {
            let now = world.now / TICK;
            for (_, replica, fault) in faults.iter().filter(|(at, _, _)| at / TICK == now) {
                world.befall(*replica, *fault);
            }
            // Who has never seen a Lease can't know that there was one.
            let all_know = world.replicas.iter().all(|replica| replica.election.holder().is_some());
            if deleted.is_some_and(|at| at / TICK == now) && all_know && !restarts {
                world.delete();
            }
            world.tick();
            let leaders = world.leaders();
            prop_assert!(leaders.len() <= 1, "{leaders:?} lead at {} ms", world.now);
        }
        prop_assert_eq!(world.leaders().len(), 1, "somebody leads when all is well");
    }
}

struct World {
    now: u64,
    origin: Instant,
    random: StdRng,
    lease: Option<Record>,
    versions: u64,
    names: u64,
    replicas: Vec<Replica>,
}

struct Replica {
    name: String,
    election: Election,
    /// How fast its clock runs, in thousandths, and where it stood in the beginning.
    rate: u64,
    offset: u64,
    paused_until: u64,
    cut_off_until: u64,
    call: Option<Call>,
    /// What was sent and given up: it may arrive all the same.
    astray: Vec<Call>,
    news: Vec<(u64, Option<Record>)>,
}

#[derive(Clone)]
struct Call {
    what: What,
    /// By the replica's own clock.
    sent: Instant,
    /// By the true clock; `None`: never.
    arrives: Option<u64>,
    answered: Option<u64>,
    answer: Option<Answer>,
}

#[derive(Clone)]
enum What {
    Read,
    Write { over: Option<Record>, holder: Option<String> },
}

#[derive(Clone)]
enum Answer {
    Read(Option<Record>),
    Refused,
    Written(Record),
}

impl World {
    fn new(seed: u64, rates: [u64; 3]) -> Self {
        let mut world = Self {
            now: 0,
            origin: Instant::now(),
            random: StdRng::seed_from_u64(seed),
            lease: None,
            versions: 0,
            names: 0,
            replicas: Vec::new(),
        };
        for rate in rates {
            let replica = world.process(rate);
            world.replicas.push(replica);
        }
        world
    }

    fn process(&mut self, rate: u64) -> Replica {
        self.names += 1;
        let name = format!("replica-{}", self.names);
        Replica {
            election: Election::new(&name, timing()),
            name,
            rate,
            offset: self.random.random_range(0..1_000_000),
            paused_until: 0,
            cut_off_until: 0,
            call: None,
            astray: Vec::new(),
            news: Vec::new(),
        }
    }

    fn leaders(&self) -> Vec<&str> {
        self.replicas
            .iter()
            .filter(|replica| {
                let now = replica.clock(self.origin, self.now);
                replica.election.leads_until().is_some_and(|until| until > now)
            })
            .map(|replica| replica.name.as_str())
            .collect()
    }

    fn befall(&mut self, replica: usize, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Pause(time) => self.replicas[replica].paused_until = now + time,
            Fault::CutOff(time) => self.replicas[replica].cut_off_until = now + time,
            Fault::Restart => {
                let rate = self.replicas[replica].rate;
                let astray = std::mem::take(&mut self.replicas[replica].astray);
                self.replicas[replica] = self.process(rate);
                self.replicas[replica].astray = astray;
            }
            Fault::Release => {
                let own = self.replicas[replica].election.own().cloned();
                if own.is_some() && self.replicas[replica].paused_until <= now {
                    // The work ends first.
                    self.replicas[replica].election.give_up();
                    self.send(replica, What::Write { over: own, holder: None });
                }
            }
        }
    }

    /// As by hand. What was sent to create the first Lease has arrived by then: unlike any other write, it says nothing
    /// of what it is based on.
    fn delete(&mut self) {
        self.lease = None;
        for replica in &mut self.replicas {
            let creates = |call: &Call| matches!(call.what, What::Write { over: None, .. });
            replica.astray.retain(|call| !creates(call));
            replica.call = replica.call.take().filter(|call| !creates(call));
        }
        self.tell();
    }

    fn send(&mut self, replica: usize, what: What) {
        let calm = self.now > CALM;
        let delay = |random: &mut StdRng| match random.random_range(0..10) {
            _ if calm => random.random_range(0..100),
            0 => random.random_range(0..20_000),
            1..3 => random.random_range(0..3_000),
            _ => random.random_range(0..100),
        };
        let there = delay(&mut self.random);
        let back = delay(&mut self.random);
        let cut_off = self.now < self.replicas[replica].cut_off_until;
        let arrives = (!cut_off || self.random.random_bool(0.5)).then_some(self.now + there);
        let replica = &mut self.replicas[replica];
        if let Some(call) = replica.call.take() {
            replica.astray.push(call);
        }
        replica.call = Some(Call {
            what,
            sent: replica.clock(self.origin, self.now),
            arrives,
            answered: arrives.filter(|_| !cut_off).map(|arrives| arrives + back),
            answer: None,
        });
    }

    fn tick(&mut self) {
        self.now += TICK;
        for replica in 0..self.replicas.len() {
            self.serve(replica);
        }
        for replica in 0..self.replicas.len() {
            if self.replicas[replica].paused_until <= self.now {
                self.act(replica);
            }
        }
    }

    /// The API server's part: what arrives, from whomever.
    fn serve(&mut self, replica: usize) {
        let now = self.now;
        let due = |call: &Call| call.answer.is_none() && call.arrives.is_some_and(|arrives| arrives <= now);
        if let Some(mut call) = self.replicas[replica].call.take() {
            if due(&call) {
                call.answer = Some(self.answer(&call.what));
            }
            self.replicas[replica].call = Some(call);
        }
        for mut call in std::mem::take(&mut self.replicas[replica].astray) {
            if due(&call) {
                call.answer = Some(self.answer(&call.what));
            }
            if call.answer.is_none() && call.arrives.is_some() {
                self.replicas[replica].astray.push(call);
            }
        }
    }

    fn answer(&mut self, what: &What) -> Answer {
        match what {
            What::Read => Answer::Read(self.lease.clone()),
            What::Write { over, .. }
                if over.as_ref().map(|one| &one.version) != self.lease.as_ref().map(|one| &one.version) =>
            {
                Answer::Refused
            }
            What::Write { holder, .. } => {
                self.versions += 1;
                let record = Record {
                    version: self.versions.to_string(),
                    holder: holder.clone(),
                    duration: Duration::from_millis(TIMING.0),
                    transitions: 0,
                };
                self.lease = Some(record.clone());
                self.tell();
                Answer::Written(record)
            }
        }
    }

    /// Tells the watches: late, in no order, and sometimes not at all.
    fn tell(&mut self) {
        for replica in &mut self.replicas {
            if self.random.random_bool(0.9) {
                let late = if self.random.random_bool(0.1) { 10_000 } else { 100 };
                replica.news.push((self.now + self.random.random_range(0..late), self.lease.clone()));
            }
        }
    }

    fn act(&mut self, index: usize) {
        let (origin, now) = (self.origin, self.now);
        let replica = &mut self.replicas[index];
        let clock = replica.clock(origin, now);
        let mut later = Vec::new();
        for (at, record) in std::mem::take(&mut replica.news) {
            if at > now {
                later.push((at, record));
            } else {
                replica.election.hear(record, clock);
            }
        }
        replica.news = later;
        if let Some(call) = replica.call.clone() {
            let timed_out = clock >= call.sent + timing().retry_period();
            if call.answered.is_some_and(|answered| answered <= now)
                && let Some(answer) = &call.answer
            {
                replica.call = None;
                match (answer, &call.what) {
                    (Answer::Read(record), _) => replica.election.read(record.clone(), clock),
                    (Answer::Refused, _) => replica.election.refused(),
                    (Answer::Written(record), What::Write { holder: Some(_), .. }) => {
                        replica.election.written(record.clone(), call.sent, clock);
                    }
                    (Answer::Written(_), _) => {}
                }
            } else if timed_out || replica.election.next(clock) == Step::GiveUp {
                replica.astray.extend(replica.call.take());
                replica.election.failed(call.sent);
            } else {
                return;
            }
        }
        let name = replica.name.clone();
        match replica.election.next(clock) {
            Step::Wait(_) => {}
            Step::GiveUp => replica.election.give_up(),
            Step::Read => self.send(index, What::Read),
            Step::Write(over) => self.send(index, What::Write { over, holder: Some(name) }),
        }
    }
}

impl Replica {
    fn clock(&self, origin: Instant, now: u64) -> Instant {
        origin + Duration::from_millis(self.offset + now * self.rate / 1000)
    }
}

fn timing() -> Timing {
    let (duration, deadline, retry) = TIMING;
    let ms = Duration::from_millis;
    Timing::new(ms(duration), ms(deadline), ms(retry)).unwrap()
}
