//! API keys and revocations.

use super::table::{ISSUER, document, each_has_one, problems, rule};

const HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A document of one key with these fields.
fn keys(fields: &str) -> String {
    document("ApiKeys", &format!("keys:\n- {fields}"))
}

#[test]
fn keys_that_are_wrong() {
    let other = HASH.replace('0', "1");
    each_has_one(&[
        (
            keys(&format!("▶{{hash: \"{HASH}\", owner: a}}")),
            "spec.keys[0].id",
            "`id` is missing",
        ),
        (
            keys(&format!("▶{{id: a, hash: \"{HASH}\"}}")),
            "spec.keys[0].owner",
            "`owner` is missing",
        ),
        (
            keys("▶{id: a, owner: a}"),
            "spec.keys[0].hash",
            "`hash` is missing",
        ),
        (
            keys(&format!("{{id: ▶a b, hash: \"{HASH}\", owner: a}}")),
            "spec.keys[0].id",
            "visible ASCII",
        ),
        (
            keys("{id: a, hash: ▶\"sha256:00\", owner: a}"),
            "spec.keys[0].hash",
            "64 hexadecimal digits",
        ),
        (
            keys("{id: a, hash: ▶md5, owner: a}"),
            "spec.keys[0].hash",
            "`enforcer api-key new`",
        ),
        (
            keys("{id: a, hash: ▶enf_abc, owner: a}"),
            "spec.keys[0].hash",
            "a key itself",
        ),
        (
            keys(&format!("{{id: a, hash: \"{HASH}\", owner: ▶\"a\\nb\"}}")),
            "spec.keys[0].owner",
            "one line",
        ),
        (
            keys(&format!("{{id: a, hash: \"{HASH}\", owner: a, tier: ▶\"\"}}")),
            "spec.keys[0].tier",
            "is no name",
        ),
        (
            keys(&format!("{{id: a, hash: \"{HASH}\", owner: a, roles: [b, ▶b]}}")),
            "spec.keys[0].roles[1]",
            "write it once",
        ),
        (
            keys(&format!(
                "{{id: a, hash: \"{HASH}\", owner: a, expires: ▶tomorrow}}"
            )),
            "spec.keys[0].expires",
            "RFC 3339",
        ),
        (
            keys(&format!(
                "{{id: a, hash: \"{HASH}\", owner: a}}\n- {{id: ▶a, hash: \"{other}\", owner: b}}"
            )),
            "spec.keys[1].id",
            "another key `a`",
        ),
        (
            keys(&format!(
                "{{id: a, hash: \"{HASH}\", owner: a}}\n- {{id: b, hash: ▶\"{HASH}\", owner: b}}"
            )),
            "spec.keys[1].hash",
            "one id and one owner",
        ),
        (document("ApiKeys", "▶key: []"), "spec.key", "keys"),
    ]);
}

#[test]
fn requirements_of_keys_that_are_wrong() {
    let with = |fields: &str| {
        let document = document("ApiKeys", "keys: []").replace("name: x", "name: partners");
        format!(
            "{}---\n{document}",
            rule(&format!("{{service: orders, {fields}}}"))
        )
    };
    each_has_one(&[
        (
            with("require: {apiKey: ▶{}}"),
            "spec.rules[0].require.apiKey.keys",
            "`keys` is missing",
        ),
        (
            with("require: {apiKey: {keys: ▶partner}}"),
            "spec.rules[0].require.apiKey.keys",
            "did you mean `partners`?",
        ),
        (
            with("require: {apiKey: {keys: [partners, ▶partners]}}"),
            "spec.rules[0].require.apiKey.keys[1]",
            "write it once",
        ),
        (
            with("require: {apiKey: {keys: partners, header: ▶Authorization}}"),
            "spec.rules[0].require.apiKey.header",
            "carries tokens",
        ),
        (
            with("require: {apiKey: {keys: partners, roles: [reader, ▶reader]}}"),
            "spec.rules[0].require.apiKey.roles[1]",
            "write it once",
        ),
        (
            with("require: {apiKey: {keys: partners, roles: ▶a b}}"),
            "spec.rules[0].require.apiKey.roles",
            "without spaces",
        ),
        (
            with("require: {mtls: {}, when: ▶apiKey.owner == 'a'}"),
            "spec.rules[0].require.when",
            "the rule requires no API key",
        ),
        (
            with("require: {apiKey: {keys: partners, header: ▶host}}"),
            "spec.rules[0].require.apiKey.header",
            "write it like x-api-key",
        ),
        (
            with("require: {apiKey: {keys: partners}, anonymous: ▶true}"),
            "spec.rules[0].require.anonymous",
            "both admit everybody and ask for a proof",
        ),
        (
            with("require: {mtls: {}}, limits: [{per: ▶apiKey, rate: 1/s}]"),
            "spec.rules[0].limits[0].per",
            "the rule requires none",
        ),
    ]);
    let right =
        with("require: {apiKey: {keys: partners, header: X-Key}}, limits: [{per: apiKey, rate: 1/s}]");
    assert!(problems(&right).is_empty(), "{:?}", problems(&right));
}

#[test]
fn revocations_that_are_wrong() {
    let entry = |fields: &str| {
        let document = document("Revocations", &format!("entries:\n- {fields}"));
        format!("{document}{ISSUER}")
    };
    let fingerprint = "ab".repeat(32);
    each_has_one(&[
        (
            entry("▶{reason: x}"),
            "spec.entries[0]",
            "names one proof, and here are 0",
        ),
        (
            entry("▶{key: a, subject: {issuer: corp, sub: b}}"),
            "spec.entries[0]",
            "names one proof, and here are 2",
        ),
        (
            entry("{token: {issuer: ▶crop, jti: a}}"),
            "spec.entries[0].token.issuer",
            "did you mean `corp`?",
        ),
        (
            entry("{token: ▶{issuer: corp}}"),
            "spec.entries[0].token.jti",
            "`jti` is missing",
        ),
        (
            entry("{subject: ▶{issuer: corp}}"),
            "spec.entries[0].subject.sub",
            "`sub` is missing",
        ),
        (
            entry("{client: ▶{issuer: corp}}"),
            "spec.entries[0].client.clientId",
            "`clientId` is missing",
        ),
        (entry("{key: ▶\"\"}"), "spec.entries[0].key", "1 to 2048 bytes"),
        (
            entry("{certificate: ▶{sha256: abcd}}"),
            "spec.entries[0].certificate",
            "64 hexadecimal digits",
        ),
        (
            entry("{certificate: ▶{serial: 0a}}"),
            "spec.entries[0].certificate",
            "by `serial` and `issuer`",
        ),
        (
            entry("{certificate: ▶{serial: xyz, issuer: CN=a}}"),
            "spec.entries[0].certificate",
            "no serial number",
        ),
        (
            entry("{key: a, until: ▶soon}"),
            "spec.entries[0].until",
            "RFC 3339",
        ),
        (entry("{key: a}\n- ▶{key: a}"), "spec.entries[1]", "write it once"),
        (
            entry(
                "{certificate: {serial: \"0a\", issuer: CN=a}}\n- ▶{certificate: {serial: \"00:0A\", issuer: CN=a}}",
            ),
            "spec.entries[1]",
            "write it once",
        ),
    ]);
    let right = [
        "{token: {issuer: corp, jti: a}, reason: leaked, until: \"2027-01-01T00:00:00Z\"}".to_owned(),
        "{subject: {issuer: corp, sub: a}}".to_owned(),
        "{client: {issuer: corp, clientId: a}}".to_owned(),
        "{key: a}".to_owned(),
        format!("{{certificate: {{sha256: {fingerprint}}}}}"),
    ];
    let found = problems(&entry(&right.join("\n- ")));
    assert!(found.is_empty(), "{found:?}");
}
