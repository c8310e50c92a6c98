//! The audit log as it is configured.

use std::{num::NonZeroU32, path::Path};

use super::{
    build::{path, within},
    raw,
};
use enforcer_model::leaf::quantity;
use enforcer_policy::yaml::place::{Place, parsed};
use enforcer_telemetry::audit::config::{AuditConfig, Destination};

/// Where a file is put aside unless configured, the least, and the most, in bytes.
const MAX_SIZE: u64 = 64 << 20;
const LEAST_SIZE: u64 = 64 << 10;
const MOST_SIZE: u64 = 1 << 40;

/// How many old files stay unless configured.
const KEEP: u32 = 4;

/// Records of requests in a second unless configured.
const PER_SECOND: u32 = 1000;

/// The most of `sample` and `perSecond`.
const MOST: u32 = 1_000_000;

pub(super) fn audit(raw: raw::Audit, at: &Place<'_>) -> Option<AuditConfig> {
    let max_size = at.optional("maxSize", raw.max_size, |raw, at| {
        let size = parsed(quantity::parse_size)(raw.0, at)?;
        if (LEAST_SIZE..=MOST_SIZE).contains(&size) {
            return Some(size);
        }
        at.error("the size is out of range: write 64KiB to 1024GiB");
        None
    });
    let keep = at.optional("keep", raw.keep, |keep, at| within(keep, 1, 100, at));
    let sample = at.optional("sample", raw.sample, |sample, at| within(sample, 0, MOST, at));
    let per_second = at.optional("perSecond", raw.per_second, |count, at| {
        within(count, 1, MOST, at)
    });
    let file = at.optional("file", raw.file, |text, at| {
        let path = path(&text, at)?;
        if path.is_dir() || !path.parent().is_some_and(Path::is_dir) {
            at.error(format!("{} is no file in a folder that exists", path.display()));
        }
        Some(path)
    });
    let to = match (file, raw.stdout) {
        (Some(_), Some(true)) => {
            at.error("records go to `file` or to `stdout`, not both: leave one out");
            return None;
        }
        (Some(path), _) => Destination::File {
            path,
            max_size: max_size.unwrap_or(MAX_SIZE),
            keep: keep.unwrap_or(KEEP),
        },
        (None, Some(true)) => {
            for field in ["maxSize", "keep"].into_iter().filter(|field| at.mentions(field)) {
                at.field(field)
                    .error(format!("`{field}` is about a file, and there is none"));
            }
            Destination::Stdout
        }
        (None, _) => {
            if !at.mentions("file") {
                at.error_with(
                    "it says not where records go",
                    "write `file: /var/log/enforcer/audit.log`, or `stdout: true`",
                );
            }
            return None;
        }
    };
    Some(AuditConfig {
        to,
        sample: sample.unwrap_or(0),
        per_second: NonZeroU32::new(per_second.unwrap_or(PER_SECOND))?,
    })
}
