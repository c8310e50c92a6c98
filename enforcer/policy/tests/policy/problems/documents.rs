//! Documents, and documents beside each other.

use crate::problems::table::each_has_one;

#[test]
fn of_documents() {
    each_has_one(&[
        ("▶kind: Service\nmetadata: {name: a}\nspec: {endpoints: ['http://a:1']}".into(), "apiVersion", "`apiVersion` is missing"),
        ("apiVersion: ▶enforcer.dev/v2\nkind: Service\nmetadata: {name: a}\nspec: {endpoints: ['http://a:1']}".into(), "apiVersion", "did you mean `enforcer.dev/v1`?"),
        ("apiVersion: ▶apps/v1\nkind: Service\nmetadata: {name: a}\nspec: {endpoints: ['http://a:1']}".into(), "apiVersion", "write `apiVersion: enforcer.dev/v1`"),
        ("apiVersion: enforcer.dev/v1\nkind: ▶PacketPolcy\nmetadata: {name: a}\nspec: {}".into(), "kind", "did you mean `PacketPolicy`?"),
        ("▶apiVersion: enforcer.dev/v1\nmetadata: {name: a}\nspec: {}".into(), "kind", "`kind` is missing"),
        ("▶apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a}".into(), "spec", "`spec` is missing"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a}\n▶spec: \n".into(), "spec", "expected a mapping, found nothing"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: ▶My_Name}\nspec: {endpoints: ['http://a:1']}".into(), "metadata.name", "is no name"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: ▶{labels: {}}\nspec: {endpoints: ['http://a:1']}".into(), "metadata.name", "`name` is missing"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: ▶12}\nspec: {endpoints: ['http://a:1']}".into(), "metadata.name", "put it in quotes"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a, ▶lables: {}}\nspec: {endpoints: ['http://a:1']}".into(), "metadata.lables", "did you mean `labels`?"),
        (
            "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a}\n▶spek: {}".into(),
            "spek",
            "did you mean `spec`?",
        ),
        ("▶- a\n- b".into(), "", "expected a mapping, found a list"),
    ]);
}

#[test]
fn between_documents() {
    let service = |name: &str| {
        format!(
            "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{endpoints: ['http://a:1']}}\n"
        )
    };
    let route = |name: &str, host: &str| {
        format!(
            "apiVersion: enforcer.dev/v1\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{hosts: [{host}], rules: [{{service: s, require: {{mtls: {{}}}}}}]}}\n"
        )
    };
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let joined = |documents: [String; 2]| documents.join("---\n");
    each_has_one(&[
        (
            joined([service("s"), service("▶s")]),
            "metadata.name",
            "there is another Service `s` at",
        ),
        (
            format!(
                "{}---\n{}",
                joined([route("a", "h"), route("b", "▶h")]),
                service("s")
            ),
            "spec.hosts[0]",
            "begins with the same match",
        ),
        (
            joined([
                policy("a", "interfaces: [eth0], ports: [tcp/1]"),
                policy("b", "interfaces: [eth0], ports: [tcp/2, ▶tcp/1]"),
            ]),
            "spec.ports[1]",
            "this port of eth0 belongs to the policy at",
        ),
        (
            joined([
                policy("a", "interfaces: [eth0]"),
                policy("b", "interfaces: ▶[eth0]"),
            ]),
            "spec.interfaces",
            "is about all traffic of eth0, as is the policy at",
        ),
    ]);
}
