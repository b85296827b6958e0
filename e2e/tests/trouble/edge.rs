//! Port 80 of the node, where every name leads: each connection goes on to Waxwing's responder, as an edge does that
//! knows the way already (`http01.existingRoute`).

use e2e::{Error, lab::RESPONDER_PORT, sandbox::NODE_ADDRESS};
use tokio::{io::copy_bidirectional, net::TcpListener, net::TcpStream};

/// Starts it, on a thread of its own, so that it outlives each test's runtime.
pub fn start() -> Result<(), Error> {
    let failed = || "starting the edge";
    let listener = std::net::TcpListener::bind((NODE_ADDRESS, 80)).map_err(Error::io(failed))?;
    listener.set_nonblocking(true).map_err(Error::io(failed))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io(failed))?;
    std::thread::spawn(move || runtime.block_on(serve(listener)));
    Ok(())
}

async fn serve(listener: std::net::TcpListener) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            // While Waxwing is away, the connection is closed at once.
            if let Ok(mut responder) = TcpStream::connect((NODE_ADDRESS, RESPONDER_PORT)).await {
                let _ = copy_bidirectional(&mut client, &mut responder).await;
            }
        });
    }
}
