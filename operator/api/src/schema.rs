//! Pieces of schema that more than one type uses: each is a limit, a rule, and words that say what to
//! write instead. Every string and list that a rule reads has a maximum, because the API server
//! refuses rules that could cost too much on the largest object.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// One label of a DNS name (RFC 1123 §2.1), lower case.
const LABEL: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";

/// At most as many as Let's Encrypt puts into one certificate.
const MAX_NAMES: usize = 100;

/// `spec.dnsNames` of a Certificate.
pub(crate) fn certificate_names(_: &mut SchemaGenerator) -> Schema {
    let mut schema = names(
        &[
            rule(
                &format!("self.matches('^([*][.])?({LABEL}[.])*{LABEL}$')"),
                "write a lower-case DNS name such as shop.example.com or *.example.com: no scheme, port, path or \
                 trailing dot, and international names in their xn-- form",
            ),
            rule(
                "!self.matches('(^|[.])[0-9]+$')",
                "this is an IP address, and only DNS names can be certified: write a name such as shop.example.com",
            ),
        ],
        MAX_NAMES,
    );
    schema.insert("minItems".into(), 1.into());
    schema.insert(
        "x-kubernetes-validations".into(),
        json!([rule(
            "self.all(a, self.exists_one(b, a == b))",
            "remove the names that are repeated: each can be listed once"
        )]),
    );
    schema
}

/// `dnsNames` in the selector of a solver.
pub(crate) fn selector_names(_: &mut SchemaGenerator) -> Schema {
    names(
        &[rule(
            &format!("self.matches('^([*][.])?({LABEL}[.])*{LABEL}$')"),
            "write the name as the Certificate has it, in lower case, such as shop.example.com; for all names of a \
             zone use dnsZones",
        )],
        MAX_NAMES,
    )
}

/// `dnsZones` in the selector of a solver.
pub(crate) fn selector_zones(_: &mut SchemaGenerator) -> Schema {
    names(
        &[rule(
            &format!("self.matches('^({LABEL}[.])*{LABEL}$')"),
            "write the zone in lower case and without \"*.\", such as example.com: it stands for all names in it",
        )],
        MAX_NAMES,
    )
}

/// `dnsNames` of an allow rule. Its lists multiply, so the pattern is a short one.
pub(crate) fn allowed_names(_: &mut SchemaGenerator) -> Schema {
    let mut schema = names(
        &[rule(
            "self.matches('^([*]|([*][.])?[a-z0-9]([-.a-z0-9]*[a-z0-9])?)$')",
            "write a lower-case DNS name such as shop.example.com, *.example.com for every name below it, or * for \
             every name",
        )],
        64,
    );
    schema.insert("minItems".into(), 1.into());
    schema
}

/// `caBundle`: base64, but not `format: byte`, whose refusal wouldn't say what to do. The pattern is
/// strict: what passes it can be decoded.
pub(crate) fn ca_bundle(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 262_144,
        "x-kubernetes-validations": [rule(
            "self.matches('^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$')",
            "write the PEM text in base64 and on one line, as `base64 -w0 ca.pem` prints it",
        )],
    })
}

/// Labels: as many and as long as the API server would let an object have.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [rule(
                "self.matches('^([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?$')",
                "write a label's value: letters, digits, '-', '_' and '.', a letter or a digit at both ends",
            )],
        },
    })
}

/// A part of a Pod that is passed on as it is. Its schema would be longer than all of ours; the API server checks it
/// when the pod is made, unknown fields included.
pub(crate) fn part_of_pod(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A label selector with the rules that the API server has for its own, so that a bad one is refused
/// when it is written and not when it is used.
pub(crate) fn namespace_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": "Labels that the namespace must have, all of them.",
                "type": "object",
                "maxProperties": 64,
                "additionalProperties": { "type": "string", "maxLength": 63 },
            },
            "matchExpressions": {
                "description": "Further conditions on the namespace's labels, all of which must hold.",
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": { "description": "The label.", "type": "string", "minLength": 1, "maxLength": 317 },
                        "operator": {
                            "description": "In and NotIn compare the label with values; Exists and DoesNotExist don't.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values for In and NotIn; else none.",
                            "type": "array",
                            "maxItems": 64,
                            "items": { "type": "string", "maxLength": 63 },
                            "x-kubernetes-list-type": "atomic",
                        },
                    },
                    "x-kubernetes-validations": [rule(
                        "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "write values with In and NotIn, and none with Exists and DoesNotExist",
                    )],
                },
            },
        },
        "x-kubernetes-map-type": "atomic",
    })
}

/// `conditions`: merged by type, so that each writer keeps its own.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    let mut schema = generator.subschema_for::<Vec<Condition>>();
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), json!(["type"]));
    schema
}

/// The name of another object must be one that an object can have.
pub(crate) fn object_name(kind: &str) -> Rule {
    Rule::new(format!("self.matches('^({LABEL}[.])*{LABEL}$')"))
        .message(format!("write the name of the {kind}: lower-case letters, digits, '-' and '.'").as_str())
}

/// A key in the data of a Secret must be one that it can have.
pub(crate) fn data_key() -> Rule {
    Rule::new("self.matches('^[-._a-zA-Z0-9]+$')")
        .message("write the key in the Secret's data: letters, digits, '-', '_' and '.'")
}

/// The fields of a cron expression: a value, a range or a star, each with a step or not; a list of those.
pub(crate) fn cron() -> Rule {
    let field = |value: &str| {
        let part = format!("([*?]|({value})(-({value}))?)(/[1-9][0-9]?)?");
        format!("{part}(,{part})*")
    };
    let fields = [
        field("[0-5]?[0-9]"),
        field("[01]?[0-9]|2[0-3]"),
        field("0?[1-9]|[12][0-9]|3[01]"),
        field("0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"),
        field("0?[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT"),
    ];
    Rule::new(format!("self.matches('^(?i){}$')", fields.join(" +")))
        .message("write five fields: minute, hour, day of the month, month and day of the week, such as 0 3 * * 6 for Saturday at three; the time zone goes into timezone")
}

/// Days that the months named don't have, as far as a pattern can tell.
pub(crate) fn cron_that_comes() -> Rule {
    Rule::new("!self.matches('^(?i)[^ ]+ +[^ ]+ +((30|31)(,(30|31))* +(0?2|FEB)|31 +(0?2|0?4|0?6|0?9|11|FEB|APR|JUN|SEP|NOV)(,(0?2|0?4|0?6|0?9|11|FEB|APR|JUN|SEP|NOV))*) +[*?]$')")
        .message("write a day that the month has: this one never comes")
}

/// Keys of labels and annotations must be ones that an object can have.
pub(crate) fn qualified_keys() -> Rule {
    Rule::new("self.all(key, key.matches('^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?$'))")
        .message("write keys such as team or example.com/team: at most 63 letters, digits, '-', '_' and '.' after the '/'")
}

/// Keys of labels or annotations that only their owner may write.
pub(crate) fn not_reserved() -> Rule {
    Rule::new("self.all(key, !key.matches('^([^/]*[.])?(waxwing[.]dev|cert-manager[.]io)/'))").message(
        "remove the keys under waxwing.dev/ and cert-manager.io/: those are written by the operators alone",
    )
}

fn names(rules: &[Value], max_items: usize) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": max_items,
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "x-kubernetes-validations": rules,
        },
        "x-kubernetes-list-type": "atomic",
    })
}

fn rule(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}
