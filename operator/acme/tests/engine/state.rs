//! What the scripted CA knows.

use std::collections::{HashMap, HashSet};

#[derive(Clone, Debug)]
pub struct Order {
    pub names: Vec<String>,
    pub replaces: Option<String>,
    pub authorizations: Vec<usize>,
    pub status: &'static str,
    pub polls: usize,
    pub late: usize,
    pub certificate: Option<usize>,
    pub account: String,
}

#[derive(Clone, Debug)]
pub struct Authorization {
    pub name: String,
    pub status: &'static str,
    pub polls: usize,
    pub looked_in_vain: bool,
}

#[derive(Default)]
pub struct State {
    pub nonces: HashSet<String>,
    pub counter: u64,
    pub requests: usize,
    pub signed: usize,
    pub accounts: HashMap<String, Vec<u8>>,
    pub orders: Vec<Order>,
    pub authorizations: Vec<Authorization>,
    pub certificates: Vec<Vec<String>>,
    pub violations: Vec<String>,
}

impl State {
    pub fn nonce(&mut self) -> String {
        let nonce = format!("nonce-{}", self.draw());
        self.nonces.insert(nonce.clone());
        nonce
    }

    /// The next of a fixed sequence of well mixed numbers (`SplitMix64`).
    pub fn draw(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.counter;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn authorize(&mut self, name: &str, valid: bool) -> usize {
        let status = if valid { "valid" } else { "pending" };
        self.authorizations.push(Authorization {
            name: name.to_owned(),
            status,
            polls: 0,
            looked_in_vain: false,
        });
        self.authorizations.len() - 1
    }
}
