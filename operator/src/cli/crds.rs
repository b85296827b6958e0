//! `waxwing crds`: the `CustomResourceDefinition`s, for `kubectl apply` or for the folder `crds/`.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use thiserror::Error;

/// The flags of `waxwing crds`.
#[derive(Debug, Args)]
pub struct Crds {
    /// Write one file for each definition into this directory instead
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

/// Why there are no definitions.
#[derive(Debug, Error)]
pub enum CrdsError {
    /// They can't be written as YAML.
    #[error("couldn't write the definitions as YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// A file, or standard output, can't be written.
    #[error("couldn't write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Crds {
    /// Prints or writes them.
    pub fn run(&self) -> Result<(), CrdsError> {
        let manifests = waxwing_api::manifests()?;
        let Some(directory) = &self.dir else {
            let text: Vec<String> = manifests.into_iter().map(|manifest| manifest.yaml).collect();
            // A reader such as head may have enough before the end.
            return match io::stdout().write_all(text.join("---\n").as_bytes()) {
                Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
                    Err(CrdsError::Write { path: "standard output".to_owned(), source })
                }
                _ => Ok(()),
            };
        };
        for manifest in manifests {
            let path = directory.join(&manifest.file);
            fs::create_dir_all(directory)
                .and_then(|()| fs::write(&path, &manifest.yaml))
                .map_err(|source| CrdsError::Write { path: path.display().to_string(), source })?;
        }
        Ok(())
    }
}
