//! Conditions as the Kubernetes API conventions have them, and their messages: pure functions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition; [`set`] gives it generation and time.
pub(super) fn condition(type_: &str, is_true: bool, reason: &str, message: String) -> Condition {
    Condition {
        type_: type_.into(),
        status: if is_true { "True" } else { "False" }.into(),
        reason: reason.into(),
        message: shorten(message),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

/// Sets a condition; its transition time moves only with its status.
pub(super) fn set(
    conditions: &mut Vec<Condition>,
    mut new: Condition,
    generation: Option<i64>,
    now: Timestamp,
) {
    new.observed_generation = generation;
    new.last_transition_time = Time(seconds(now));
    match conditions.iter_mut().find(|condition| condition.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// The condition of a type.
pub(super) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Kubernetes keeps whole seconds; a fraction would make each status differ from what was stored.
pub(super) fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A condition's message holds 32 KiB; a CA's words, which are the longest part, don't need that.
const LONGEST_MESSAGE: usize = 2_000;

fn shorten(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE).rev().find(|end| message.is_char_boundary(*end)).unwrap_or_default();
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The first letter in upper case and a full stop, for what began as the end of an error.
pub fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    // Names, of hosts, objects and fields, and URLs stay as they are.
    let first_word = text.split_whitespace().next().unwrap_or_default();
    let is_word = first_word.chars().all(|letter| letter.is_ascii_lowercase() || "'-,:".contains(letter));
    match characters.next() {
        Some(first) if is_word => full_stop(&first.to_uppercase().chain(characters).collect::<String>()),
        _ => full_stop(text),
    }
}

/// A full stop, unless there is an end already.
pub fn full_stop(text: &str) -> String {
    if text.ends_with(['.', '!', '?', '…']) { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_leave_host_names_alone() {
        assert_eq!(sentence("there is no issuer"), "There is no issuer.");
        assert_eq!(sentence("a.example is routed elsewhere"), "a.example is routed elsewhere.");
        assert_eq!(sentence("https://ca/new-order answered"), "https://ca/new-order answered.");
        assert_eq!(sentence("couldn't be had, for now…"), "Couldn't be had, for now…");
    }
}
