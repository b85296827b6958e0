//! Types and reasons of conditions. Documented in the user guide, so they don't change lightly.

/// Condition of Certificates and issuers. On a Certificate: the Secret holds a valid pair for the
/// spec, whatever the last attempt did. On an issuer: its ACME account can be used.
pub const READY: &str = "Ready";
/// Condition of Certificates: an attempt to issue runs (`True`, with where it is), or none does
/// (`False`, with why the last one stopped).
pub const ISSUING: &str = "Issuing";

/// Ready of a Certificate, `True`; Issuing, `False`: the Secret holds a pair for this spec.
pub const ISSUED: &str = "Issued";

/// Event of a Certificate: the CA suggests when to renew it, and names a page that says why.
pub const RENEWAL_SUGGESTED: &str = "RenewalSuggested";

/// Event of a Certificate: none of the windows in `renewal.windows` comes in time, so it is renewed outside of them.
pub const NO_WINDOW_FITS: &str = "NoWindowFits";
/// Event of a Certificate: what it says about its renewal can't be followed, in part; it is renewed all the same.
pub const RENEWAL_SPEC_IGNORED: &str = "RenewalSpecIgnored";

/// Ready, `False`: the Secret doesn't exist, or holds no certificate.
pub const DOES_NOT_EXIST: &str = "DoesNotExist";
/// Ready, `False`: the certificate in the Secret has expired.
pub const EXPIRED: &str = "Expired";
/// Ready, `False`: the CA has revoked the certificate in the Secret. It stays there until the next one is stored.
pub const REVOKED: &str = "Revoked";
/// Ready, `False`: the Secret's certificate or key doesn't parse, or they don't belong together.
pub const INVALID_PAIR: &str = "InvalidPair";
/// Ready, `False`: the Secret holds a pair, but not the one that the spec now asks for.
pub const SPEC_CHANGED: &str = "SpecChanged";
/// Ready, `False`: the Secret holds a pair from another issuer than the spec now names.
pub const ISSUER_CHANGED: &str = "IssuerChanged";

/// Issuing, `True`: an attempt runs; the message says where it is.
pub const IN_PROGRESS: &str = "Issuing";
/// Issuing, `False`: the issuer that `issuerRef` names doesn't exist.
pub const ISSUER_NOT_FOUND: &str = "IssuerNotFound";
/// Issuing, `False`: the issuer exists but isn't Ready; its own condition says why.
pub const ISSUER_NOT_READY: &str = "IssuerNotReady";
/// Issuing, `False`: Ingresses or routes of another namespace, and nothing of this one, have one of the names.
pub const NAME_OWNED_ELSEWHERE: &str = "NameOwnedElsewhere";
/// Issuing, `False`: no rule in the issuer's `allow` is for one of the names in this namespace.
pub const NOT_ALLOWED: &str = "NotAllowed";
/// Issuing, `False`: a Secret of that name exists that isn't Waxwing's to write.
pub const SECRET_NOT_OWNED: &str = "SecretNotOwned";
/// Issuing, `False`: the Secret is Waxwing's to write but can't be written: immutable, or of another type.
pub const SECRET_UNUSABLE: &str = "SecretUnusable";
/// Issuing, `False`: the spec asks for what can't be; only an object older than a rule can.
pub const INVALID_SPEC: &str = "InvalidSpec";
/// Issuing, `False`: another Certificate writes the same Secret.
pub const SECRET_CONFLICT: &str = "SecretConflict";
/// Issuing, `False`: a limit of the CA is used up; the message says which, and until when.
pub const RATE_LIMITED: &str = "RateLimited";
/// Issuing, `False`: the last attempt failed, and only a change can make it pass.
pub const FAILED: &str = "Failed";
/// Issuing, `False`: the last attempt failed; the next is at `status.nextAttemptTime`.
pub const BACKING_OFF: &str = "BackingOff";

/// An Event about a Certificate, and no condition: the permanent path for its challenges leads elsewhere.
pub const ROUTE_BROKEN: &str = "RouteBroken";

/// Ready of an issuer, `True`: the account is registered and its key is stored.
pub const ACCOUNT_REGISTERED: &str = "AccountRegistered";
/// Ready of an issuer, `False`: a Secret or a key in it that the spec names is missing.
pub const KEY_MISSING: &str = "KeyMissing";
/// Ready of an issuer, `False`: the account key or the external account's key can't be used.
pub const INVALID_KEY: &str = "InvalidKey";
/// Ready of an issuer, `False`: the CA's directory can't be fetched or isn't one.
pub const DIRECTORY_UNREACHABLE: &str = "DirectoryUnreachable";
/// Ready of an issuer, `False`: the CA refused the account.
pub const ACCOUNT_REFUSED: &str = "AccountRefused";
/// Ready of an issuer, `False`: the spec can't be used as written.
pub const INVALID_CONFIG: &str = "InvalidConfig";
