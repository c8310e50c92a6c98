//! The kernel programs, embedded, and how they are loaded.

use std::io::ErrorKind;

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned,
    maps::{Map, MapData},
    programs::{ProgramError, SchedClassifier, Xdp},
};

use super::{
    EventRate, KernelError, log,
    notes::Notes,
    numbers::Numbers,
    pins::{KEPT, Pins, pinned_array},
};
use enforcer_sys::memory;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-ebpf"));

/// The XDP program's name.
pub const XDP: &str = "enforcer_xdp";
/// The name of the program that measures when ticks began, into the map `CLOCK`.
pub const ORIGIN: &str = "enforcer_origin";
/// The name of the TC program for what leaves by an interface.
pub const TC_EGRESS: &str = "enforcer_tc_egress";
/// The name of the TC program for what an interface's other end sends.
pub const TC_INGRESS: &str = "enforcer_tc_ingress";

/// How large the maps are, and where time comes from.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Lines of the sketch, 64 bytes each: a power of two.
    pub sketch_lines: u32,
    /// Verified connections at once.
    pub max_flows: u32,
    /// Packets are told the time in the clock map, not the kernel's own: for replay and tests.
    pub injected_time: bool,
    /// Nanoseconds from one tick of the kernel to the next; zero: the time of the last is asked for.
    pub tick_ns: u64,
    /// How many packets have an event.
    pub events: EventRate,
    /// Packets that have an event have a line in the log too.
    pub debug_log: bool,
}

/// What was made of the maps that another agent had left.
pub enum Inheritance {
    /// They are used on, and these are the numbers in them.
    Kept(Numbers),
    /// All begins anew, and why.
    Fresh(String),
}

/// Creates the maps, or takes over those that are pinned, and loads the programs.
///
/// # Errors
/// The kernel refuses: no permission, no memory, or the verifier.
pub fn load_pinned(sizes: Sizes, pins: &Pins) -> Result<(Ebpf, Inheritance), KernelError> {
    // Their shapes are known once they are made; the programs are not loaded yet.
    let mut ebpf = create(sizes, None)?;
    let notes = || {
        let map = pinned_array(pins, "NOTES").map_err(|error| error.to_string())?;
        Notes::read(&map)
    };
    let inheritance = match pins.fit(&ebpf).and_then(|()| notes()) {
        Ok(numbers) => {
            ebpf = create(sizes, Some(pins))?;
            Inheritance::Kept(numbers)
        }
        Err(why) => {
            pins.replace_maps(&ebpf)?;
            Inheritance::Fresh(why)
        }
    };
    load_programs(&mut ebpf)?;
    Ok((ebpf, inheritance))
}

/// Creates the maps and loads the programs.
///
/// # Errors
/// The kernel refuses: no permission, no memory, or the verifier.
pub fn load(sizes: Sizes) -> Result<Ebpf, KernelError> {
    let mut ebpf = create(sizes, None)?;
    load_programs(&mut ebpf)?;
    Ok(ebpf)
}

fn create(sizes: Sizes, pins: Option<&Pins>) -> Result<Ebpf, KernelError> {
    let injected_time = u32::from(sizes.injected_time);
    let event_spacing_ns = sizes.events.spacing_ns();
    let log_level = log::level(sizes.debug_log);
    // The programs read no structures of the kernel's. The loader has taken in its types by itself, tens of MiB that nothing
    // is to settle in.
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    memory::give_back();
    for (name, pins) in KEPT.into_iter().zip(std::iter::repeat(pins)) {
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries("SKETCH", sizes.sketch_lines)
        .map_max_entries("FLOWS", sizes.max_flows)
        .override_global("INJECTED_TIME", &injected_time, true)
        .override_global("TICK_NS", &sizes.tick_ns, true)
        .override_global("EVENT_SPACING_NS", &event_spacing_ns, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .load(OBJECT)
        .map_err(|error| KernelError::Load {
            what: "the maps",
            error: chain(&error),
        })
}

/// Loads a program. The verifier gives up with `EAGAIN` when a signal comes while it is at work (a reload that is asked for
/// during the start, say), and is asked again then.
fn verified<E>(
    mut load: impl FnMut() -> Result<(), E>,
    io_error: impl Fn(&E) -> Option<ErrorKind>,
) -> Result<(), E> {
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match load() {
            Err(error) if io_error(&error) == Some(ErrorKind::WouldBlock) => {}
            done => return done,
        }
    }
    load()
}

/// What the kernel said of a program, if it was asked.
fn answer(error: &ProgramError) -> Option<ErrorKind> {
    match error {
        ProgramError::LoadError { io_error, .. } => Some(io_error.kind()),
        _ => None,
    }
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for what in [XDP, ORIGIN] {
        let program = xdp(ebpf, what)?;
        verified(|| program.load(), answer).map_err(|error| KernelError::Load {
            what,
            error: chain(&error),
        })?;
    }
    for what in [TC_EGRESS, TC_INGRESS] {
        let program = tc(ebpf, what)?;
        verified(|| program.load(), answer).map_err(|error| KernelError::Load {
            what,
            error: chain(&error),
        })?;
    }
    Ok(())
}

/// The XDP program of that name.
///
/// # Errors
/// The object has none, which a build of this crate rules out.
pub fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
    program.try_into().map_err(|_| KernelError::Missing(name))
}

/// The TC program of that name.
///
/// # Errors
/// As for [`xdp`].
pub fn tc<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
    program.try_into().map_err(|_| KernelError::Missing(name))
}

/// Takes a map out of the object.
///
/// # Errors
/// As for [`xdp`].
pub fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, KernelError> {
    ebpf.take_map(name)
        .and_then(|map| map.try_into().ok())
        .ok_or(KernelError::Missing(name))
}

/// An array map.
pub type Array<V> = aya::maps::Array<MapData, V>;

/// An error with all that it stems from, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_signal_does_not_keep_a_program_from_being_loaded() {
        for (errno, refusals, asked, loads) in [
            (libc::EAGAIN, 2, 3, true),
            (libc::EAGAIN, 100, 5, false),
            (libc::EACCES, 100, 1, false),
        ] {
            let mut times = 0;
            let load = || {
                times += 1;
                let refused = || io::Error::from_raw_os_error(errno);
                if times > refusals { Ok(()) } else { Err(refused()) }
            };
            assert_eq!(
                verified(load, |error| Some(error.kind())).is_ok(),
                loads,
                "{errno}"
            );
            assert_eq!(times, asked, "{errno}");
        }
    }
}
