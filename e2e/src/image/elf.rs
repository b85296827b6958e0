//! What a program's file says of itself (System V ABI, ELF-64 object file format).

use std::path::Path;

use crate::Error;

/// A processor that images are made for, by its name in image configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

/// A program that needs no other file: nothing else is in the image with it.
#[derive(Clone, Debug)]
pub struct Program {
    /// The processor that it is for.
    pub architecture: Architecture,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The kind of a segment that names the program's loader, and so its need for libraries.
const INTERPRETER: u64 = 3;

impl Architecture {
    /// The name that image configurations and Kubernetes use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl Program {
    /// Reads a program and checks that it is static.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io(|| format!("reading {}", path.display())))?;
        match inspect(&bytes) {
            Ok(architecture) => Ok(Self { architecture, bytes }),
            Err(why) => Err(Error::Invalid { what: path.display().to_string(), why: why.to_owned() }),
        }
    }
}

fn inspect(bytes: &[u8]) -> Result<Architecture, &'static str> {
    const SHORT: &str = "it ends too early for a program";
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("it is not a 64-bit program for Linux");
    }
    let architecture = match number(bytes, 18, 2).ok_or(SHORT)? {
        62 => Architecture::Amd64,
        183 => Architecture::Arm64,
        _ => return Err("it is for a processor that no image is made for"),
    };
    let table = number(bytes, 32, 8).ok_or(SHORT)?;
    let size = number(bytes, 54, 2).ok_or(SHORT)?;
    let count = number(bytes, 56, 2).ok_or(SHORT)?;
    for index in 0..count {
        let at = size.checked_mul(index).and_then(|offset| offset.checked_add(table)).ok_or(SHORT)?;
        let at = usize::try_from(at).map_err(|_| SHORT)?;
        if number(bytes, at, 4).ok_or(SHORT)? == INTERPRETER {
            return Err("it needs a loader and libraries, which the image doesn't have: link it statically");
        }
    }
    Ok(architecture)
}

/// A little-endian number.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn header(machine: u8, segment: u8) -> Vec<u8> {
        let mut bytes = vec![0; 120];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = machine;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = segment;
        bytes
    }

    #[test]
    fn static_programs_are_told_from_others() {
        assert_eq!(inspect(&header(62, 1)), Ok(Architecture::Amd64));
        assert_eq!(inspect(&header(183, 1)), Ok(Architecture::Arm64));
        assert!(inspect(&header(62, 3)).unwrap_err().contains("statically"));
        assert!(inspect(&header(3, 1)).is_err());
        assert!(inspect(b"#!/bin/sh").is_err());
        assert!(inspect(&header(62, 1)[..70]).is_ok(), "the table's first entry is there");
        assert!(inspect(&header(62, 1)[..60]).is_err());
    }

    #[test]
    fn this_test_needs_libraries() {
        let error = Program::read(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(error.to_string().contains("statically"), "{error}");
    }
}
