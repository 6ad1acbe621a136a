//! The dashboard's HTTP server.
use crate::router::LocalAddrs;
use crate::shared::Shared;
use std::sync::Arc;
use tokio::net::TcpListener;
pub(crate) async fn serve(shared: Arc<Shared>, _addrs: LocalAddrs, _listener: TcpListener) {
    let mut phase = shared.phase.subscribe();
    let _ = phase.wait_for(|phase| *phase == crate::shared::Phase::Stopped).await;
}
