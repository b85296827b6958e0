//! `e2e up`, `down`, `status`, `logs`, `env` and `exec`: a lab that keeps running.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use e2e::{
    Error, paths,
    up::{Named, Running, UpOptions, kubectl_directory},
};

/// Starts a lab and says how to use it.
pub fn up(named: &Named, operator: Vec<OsString>) -> Result<(), Error> {
    if named.running().is_some() {
        println!("The lab {} is up already.", named.name());
        return Ok(());
    }
    let running = named.up(&UpOptions { operator, image: None })?;
    println!("The lab {} is up; its files are in {}.", named.name(), named.directory().display());
    println!("  {}   then: kubectl get ingressclasses", evaluate(named));
    println!("  {}", curl(named, &running, "HOST"));
    println!("  {} down --name {}   ends it", program(), named.name());
    Ok(())
}

/// Ends a lab.
pub fn down(named: &Named) -> Result<(), Error> {
    if named.down()? {
        println!(
            "The lab {} has ended; nothing of it runs. Its logs stay in {}.",
            named.name(),
            named.logs().display()
        );
    } else {
        println!("No lab named {} is up.", named.name());
    }
    Ok(())
}

/// Says how a lab fares; whether all of it runs.
pub fn status(named: &Named) -> Result<bool, Error> {
    let running = named.expect_running()?;
    println!("The lab {} is up (process {}).", named.name(), running.sandbox.pid);
    println!(
        "  API server  https://127.0.0.1:{}   kubeconfig {}",
        running.ports.api,
        named.kubeconfig().display()
    );
    println!("  Traefik     http 127.0.0.1:{}, https 127.0.0.1:{}", running.ports.http, running.ports.https);
    println!("  {}", curl(named, &running, "HOST"));
    let mut all = true;
    for part in named.supervised().unwrap_or_default().parts {
        all &= part.ended.is_none();
        println!(
            "  {:<24} {}",
            part.name,
            part.ended.map_or("runs".to_owned(), |how| format!("ended: {how}"))
        );
    }
    Ok(all)
}

/// Prints a part's log, or which logs there are.
pub fn logs(named: &Named, part: Option<&str>, follow: bool) -> Result<(), Error> {
    let directory = named.logs();
    let file = part.map(|part| directory.join(format!("{part}.log"))).filter(|file| file.exists());
    if let Some(file) = file {
        if follow {
            let source = Command::new("tail").args(["-n", "50", "-F"]).arg(file).exec();
            return Err(Error::Io { what: "starting tail".to_owned(), source });
        }
        println!("{}", paths::read(&file)?.trim_end());
        return Ok(());
    }
    let failed = || format!("listing {}", directory.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(|_| Error::NotUp { name: named.name().to_owned() })? {
        let name = entry.map_err(Error::io(failed))?.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_suffix(".log").map(str::to_owned));
    }
    found.sort();
    let list = found.join(" ");
    match part {
        None => println!("Logs in {}: {list}", directory.display()),
        Some(part) => {
            return Err(Error::Invalid {
                what: format!("no log named {part}"),
                why: format!("there are: {list}"),
            });
        }
    }
    Ok(())
}

/// Prints shell variables for `eval`.
pub fn env(named: &Named) -> Result<(), Error> {
    let running = named.expect_running()?;
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    println!("export KUBECONFIG={}", quote(&named.kubeconfig().to_string_lossy()));
    println!("export WAXWING_LAB_HTTP=127.0.0.1:{}", running.ports.http);
    println!("export WAXWING_LAB_HTTPS=127.0.0.1:{}", running.ports.https);
    println!("export WAXWING_LAB_ROOTS={}", quote(&named.roots().to_string_lossy()));
    // Behind the others: a kubectl of one's own stays the first.
    println!("export PATH=\"$PATH\":{}", quote(&kubectl_directory()?.to_string_lossy()));
    Ok(())
}

/// Replaces this process by a command inside of a lab.
pub fn exec(named: &Named, command: &[OsString]) -> Result<(), Error> {
    let source = named.command()?.args(command).exec();
    Err(Error::Io { what: "starting nsenter".to_owned(), source })
}

/// How this program was called.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "e2e".to_owned())
}

fn evaluate(named: &Named) -> String {
    format!("eval \"$({} env --name {})\"", program(), named.name())
}

fn curl(named: &Named, running: &Running, host: &str) -> String {
    format!(
        "curl --cacert {} --connect-to ::127.0.0.1:{} https://{host}/",
        named.roots().display(),
        running.ports.https
    )
}
