//! `e2e fetch`.

use e2e::{
    Error,
    parts::{self, Progress, Purpose},
};

/// Gets the parts for a purpose.
pub fn run(purpose: Purpose) -> Result<(), Error> {
    parts::fetch(purpose, &mut Progress::new(purpose.parts().len()))
}
