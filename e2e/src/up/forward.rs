//! Connections from this machine into a sandbox, without a change to this machine's network: a
//! socket that listens outside is handed to a process inside.

use std::{net::TcpListener, os::fd::AsFd as _, sync::Arc};

use tokio::{io::copy_bidirectional, net::TcpStream, sync::Semaphore};

use crate::Error;

/// Most connections at once.
const CONNECTIONS: usize = 512;

/// Takes connections from the socket that standard input is, and connects each to `target`. Runs
/// until it is ended.
pub async fn forward(target: String) -> Result<(), Error> {
    let failed = || "taking the socket from standard input";
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::io(failed))?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true).map_err(Error::io(failed))?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::io(failed))?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let target: Arc<str> = target.into();
    loop {
        let permit =
            Arc::clone(&room).acquire_owned().await.map_err(Error::invalid(|| "counting connections"))?;
        let (mut outside, _) = listener.accept().await.map_err(Error::io(|| "taking a connection"))?;
        let target = Arc::clone(&target);
        tokio::spawn(async move {
            let _permit = permit;
            // A part that doesn't answer looks to the client as it would inside: closed at once.
            if let Ok(mut inside) = TcpStream::connect(&*target).await {
                let _ = outside.set_nodelay(true).and_then(|()| inside.set_nodelay(true));
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
    }
}
