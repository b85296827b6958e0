//! `e2e image`.

use std::path::{Path, PathBuf};

use e2e::{
    Error,
    image::{self, Program},
};

/// What the image is made of.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The Waxwing program, which must need no libraries: scripts/static-build
    #[arg(long)]
    program: PathBuf,
    /// The directory that gets the layout `oci/` and the archive `waxwing.tar`
    #[arg(long)]
    into: PathBuf,
    /// The commit that the program was built from
    #[arg(long)]
    revision: Option<String>,
    /// The time that the image carries, in seconds since 1970
    #[arg(long, env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    created: i64,
}

/// Writes the image, and says where it is and how large.
pub fn run(options: &Options) -> Result<(), Error> {
    let created =
        jiff::Timestamp::from_second(options.created).map_err(Error::invalid(|| "SOURCE_DATE_EPOCH"))?;
    let program = Program::read(&options.program)?;
    let architecture = program.architecture.name();
    let built = image::waxwing(program, created, options.revision.as_deref()).build()?;
    let size = built.size();
    if size > image::MOST_BYTES {
        let why = format!("{}: more than the {} it may have", mebibytes(size), mebibytes(image::MOST_BYTES));
        return Err(Error::Invalid { what: "the size of the image".to_owned(), why });
    }
    let layout = options.into.join("oci");
    let archive = options.into.join("waxwing.tar");
    built.write_layout(&layout)?;
    built.write_archive(&archive)?;
    println!("image    {} (linux/{architecture})", built.name());
    println!("digest   {}", built.digest());
    println!("size     {}, unpacked {}", mebibytes(size), mebibytes(built.unpacked()));
    println!("layout   {}", relative(&layout));
    println!("archive  {}", relative(&archive));
    Ok(())
}

/// `7.4 MiB`, rounded up so that a limit never looks met when it isn't.
fn mebibytes(bytes: usize) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn relative(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
