//! `enforcer api-key`

use std::io::{self, Write as _};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Failure, Output};
use enforcer_gateway::identity::api_key;
use enforcer_model::leaf::{Name, quantity::parse_duration};
use enforcer_policy::judge::api_keys::{parse_owner, parse_word};

/// Make API keys
#[derive(Debug, Args)]
pub struct ApiKey {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(New),
}

/// Make a key: it is printed once, and its hash as an entry of a document of kind ApiKeys
///
/// The first line of the output is the key, for its owner; what follows the empty line goes into the document.
/// The key is kept nowhere: whoever loses it gets another.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  enforcer api-key new --owner partner-a --tier gold --expires 90d
  enforcer api-key new --owner ops@example.com --role reader --role operator --expires 2027-01-01T00:00:00Z
  enforcer api-key new --owner partner-a --output json | jq -r .key")]
struct New {
    /// Whom the key stands for; services are told
    #[arg(long, value_name = "NAME", value_parser = owner)]
    owner: String,
    /// What the key is called; drawn at random if it is left out
    #[arg(long, value_name = "ID", value_parser = word)]
    id: Option<String>,
    /// The owner's tier
    #[arg(long, value_name = "TIER", value_parser = name)]
    tier: Option<String>,
    /// A role of the owner, as often as there are
    #[arg(long = "role", value_name = "ROLE", value_parser = word)]
    roles: Vec<String>,
    /// When it expires: a time as 2027-01-01T00:00:00Z, or how long from now, as 90d
    #[arg(long, value_name = "TIME", value_parser = parse_expiry)]
    expires: Option<OffsetDateTime>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What is made.
#[derive(Serialize)]
struct Made {
    key: String,
    entry: Entry,
}

/// An element of `keys` in a document of kind `ApiKeys`.
#[derive(Serialize)]
struct Entry {
    id: String,
    hash: String,
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

impl ApiKey {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::New(new) = self.command;
        let output = new.output;
        let made = new.make()?;
        let mut out = io::stdout().lock();
        match output {
            Output::Json => {
                let text = serde_json::to_string_pretty(&made).map_err(anyhow::Error::from)?;
                writeln!(out, "{text}")?;
            }
            Output::Text => print(&mut out, &made)?,
        }
        Ok(())
    }
}

impl New {
    fn make(self) -> Result<Made, Failure> {
        let random = |_| anyhow!("the system gives no randomness");
        let mut name = [0; 8];
        aws_lc_rs::rand::fill(&mut name).map_err(random)?;
        let key = api_key::generate().map_err(random)?;
        let expires = self.expires.map(|expires| expires.format(&Rfc3339)).transpose();
        let entry = Entry {
            id: self.id.unwrap_or_else(|| format!("key-{}", hex(&name))),
            hash: format!("sha256:{}", hex(&api_key::hash(key.as_bytes()))),
            owner: self.owner,
            tier: self.tier,
            roles: self.roles,
            expires: expires.map_err(anyhow::Error::from)?,
        };
        Ok(Made { key, entry })
    }
}

/// JSON is YAML, in which no value can pass for something else.
fn print(out: &mut impl io::Write, made: &Made) -> io::Result<()> {
    let entry = serde_json::to_value(&made.entry)?;
    writeln!(out, "{}\n", made.key)?;
    let fields = ["id", "hash", "owner", "tier", "roles", "expires"];
    let written = fields.iter().filter_map(|field| Some((field, entry.get(field)?)));
    for (index, (field, value)) in written.enumerate() {
        let before = if index == 0 { "-" } else { " " };
        writeln!(out, "{before} {field}: {value}")?;
    }
    Ok(())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn owner(text: &str) -> Result<String, String> {
    parse_owner(text).map(|owner| owner.to_string())
}

fn name(text: &str) -> Result<String, String> {
    text.parse::<Name>().map(|name| name.to_string())
}

fn word(text: &str) -> Result<String, String> {
    parse_word(text).map(|word| word.to_string())
}

fn parse_expiry(text: &str) -> Result<OffsetDateTime, String> {
    let now = OffsetDateTime::now_utc();
    let wrong = |_| format!("`{text}` is neither a time like 2027-01-01T00:00:00Z nor a duration like 90d");
    let time = match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(time) => Some(time),
        Err(_) => now.checked_add(
            parse_duration(text)
                .and_then(|lasts| lasts.try_into().map_err(|_| String::new()))
                .map_err(wrong)?,
        ),
    };
    time.and_then(|time| time.replace_nanosecond(0).ok())
        .filter(|time| *time > now)
        .ok_or_else(|| format!("`{text}` is not to come: the key would never be admitted"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use enforcer_policy;

    fn new(roles: &[&str]) -> New {
        New {
            owner: "a \"b\": #c".into(),
            id: None,
            tier: Some("on".into()),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            expires: Some(parse_expiry("90d").unwrap()),
            output: Output::Text,
        }
    }

    #[test]
    fn what_is_printed_is_an_entry_of_a_document() {
        let made = new(&["reader", "no"]).make().unwrap();
        let mut out = Vec::new();
        print(&mut out, &made).unwrap();
        let text = String::from_utf8(out).unwrap();
        let (key, entry) = text.split_once("\n\n").unwrap();
        assert!(api_key::is_well_formed(key.as_bytes()), "{key}");
        let entry: String = entry.lines().map(|line| format!("  {line}\n")).collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.yaml");
        let head = "apiVersion: enforcer.dev/v1\nkind: ApiKeys\nmetadata: {name: x}\nspec:\n  keys:\n";
        fs::write(&file, format!("{head}{entry}")).unwrap();
        let set = enforcer_policy::load(&[file]).unwrap().set;
        let read = &set.api_keys[0].keys[0];
        assert_eq!(read.hash, api_key::hash(key.as_bytes()));
        assert_eq!((&*read.owner, read.tier.as_deref()), ("a \"b\": #c", Some("on")));
        assert_eq!(read.roles, ["reader".into(), "no".into()]);
        assert!(read.expires.is_some() && read.id.starts_with("key-"));
    }

    #[test]
    fn expiry_is_to_come() {
        for text in ["2020-01-01T00:00:00Z", "tomorrow", "0s", "-1d"] {
            assert!(parse_expiry(text).is_err(), "{text}");
        }
        assert!(parse_expiry("2999-01-01T00:00:00+01:00").is_ok());
    }
}
