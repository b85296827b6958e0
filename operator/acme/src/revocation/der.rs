//! DER (X.690), element by element and without a copy: a long list is never read into a tree.

use x509_parser::asn1_rs::{Any, FromDer};

use super::Unusable;

/// The elements of a constructed value, in order.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a>(&'a [u8]);

/// One element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    /// What is in it.
    pub(super) content: &'a [u8],
    /// The same with its identifier and length.
    pub(super) whole: &'a [u8],
}

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

/// The identifier of `[number]`, primitive.
pub(super) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// The identifier of `[number]`, constructed.
pub(super) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

impl<'a> Elements<'a> {
    /// Those in `content`.
    pub(super) const fn of(content: &'a [u8]) -> Self {
        Self(content)
    }

    /// The identifier octet of the next element.
    pub(super) fn next_tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element, whatever it is.
    pub(super) fn any(&mut self) -> Result<Element<'a>, Unusable> {
        let (rest, any) = Any::from_der(self.0).map_err(|_| Unusable::Malformed)?;
        let length = self.0.len().saturating_sub(rest.len());
        let whole = self.0.get(..length).ok_or(Unusable::Malformed)?;
        self.0 = rest;
        Ok(Element { content: any.data, whole })
    }

    /// The next element, which must be of this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<Element<'a>, Unusable> {
        if self.next_tag() == Some(tag) { self.any() } else { Err(Unusable::Malformed) }
    }

    /// The next element if it is of this tag.
    pub(super) fn take_if(&mut self, tag: u8) -> Result<Option<Element<'a>>, Unusable> {
        if self.next_tag() == Some(tag) { self.any().map(Some) } else { Ok(None) }
    }
}

impl<'a> Element<'a> {
    /// What is in it, element by element.
    pub(super) const fn elements(&self) -> Elements<'a> {
        Elements::of(self.content)
    }
}

/// Writes an element around `parts`.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut written = vec![tag];
    let bytes = length.to_be_bytes();
    let significant = bytes.iter().position(|byte| *byte != 0).and_then(|start| bytes.get(start..));
    match significant.unwrap_or(&[0]) {
        [short] if *short < 0x80 => written.push(*short),
        long => {
            written.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            written.extend_from_slice(long);
        }
    }
    for part in parts {
        written.extend_from_slice(part);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; length];
            let written = element(OCTET_STRING, &[&content, &[]]);
            let mut elements = Elements::of(&written);
            assert!(elements.take_if(SEQUENCE).unwrap().is_none());
            let read = elements.take(OCTET_STRING).unwrap();
            assert_eq!((read.content, read.whole), (&*content, &*written));
            assert_eq!(elements.next_tag(), None);
        }
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let written = element(SEQUENCE, &[&element(INTEGER, &[&[1]])]);
        for end in 0..written.len() {
            assert!(Elements::of(&written[..end]).take(SEQUENCE).is_err());
        }
        // A length beyond everything, and none at all (BER).
        assert!(Elements::of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]).any().is_err());
        assert!(Elements::of(&[0x30, 0x80, 0, 0]).any().is_err());
    }
}
