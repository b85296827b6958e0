//! Addresses of a host, asked of given name servers or of the host's own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::Outcome;

/// Resolves A and AAAA, without a cache, so that a change is seen at once.
pub(crate) struct AddressLookup {
    resolver: Result<TokioResolver, String>,
}

impl AddressLookup {
    /// Asks `nameservers`, or those of the host where there are none.
    pub(crate) fn new(nameservers: &[SocketAddr]) -> Self {
        Self { resolver: build(nameservers).map_err(|error| error.to_string()) }
    }

    /// The addresses of `host`, or why there are none.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Outcome> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let resolver = self.resolver.as_ref().map_err(|error| Outcome::Dns(error.clone()))?;
        // With the dot at its end no search domain is tried.
        match resolver.lookup_ip(format!("{host}.")).await {
            Ok(found) => {
                let mut addresses: Vec<IpAddr> = found.iter().collect();
                addresses.sort();
                addresses.dedup();
                Ok(addresses)
            }
            Err(error) if error.is_nx_domain() => {
                Err(Outcome::Dns("it does not exist (NXDOMAIN)".to_owned()))
            }
            Err(error) if error.is_no_records_found() => Err(Outcome::NoAddress),
            Err(error) => Err(Outcome::Dns(error.to_string())),
        }
    }
}

fn build(nameservers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if nameservers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = nameservers
            .iter()
            .map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.into())
            })
            .collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = Duration::from_secs(3);
    options.attempts = 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // A CA doesn't read this machine's /etc/hosts.
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}
