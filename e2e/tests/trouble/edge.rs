//! Ports of the node, where every name leads: each connection goes on to another port.

use e2e::{Error, sandbox::NODE_ADDRESS};
use tokio::{io::copy_bidirectional, net::TcpListener, net::TcpStream};

/// Lets one lead to another, on a thread of its own, so that it outlives each test's runtime.
pub fn lead(port: u16, to: u16) -> Result<(), Error> {
    let failed = || "starting the edge";
    let listener = std::net::TcpListener::bind((NODE_ADDRESS, port)).map_err(Error::io(failed))?;
    listener.set_nonblocking(true).map_err(Error::io(failed))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io(failed))?;
    std::thread::spawn(move || runtime.block_on(serve(listener, to)));
    Ok(())
}

async fn serve(listener: std::net::TcpListener, to: u16) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            // While nobody is there, as while Waxwing is away, the connection is closed at once.
            if let Ok(mut server) = TcpStream::connect((NODE_ADDRESS, to)).await {
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
