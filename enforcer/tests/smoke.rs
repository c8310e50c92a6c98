use enforcer::kernel::{Config, Offline};
#[test]
fn loads() {
    let config = Config { xdp: Default::default(), management: vec![], sketch_bytes: 1<<20, max_flows: 1024 };
    let o = Offline::load(&config);
    if let Err(e) = &o { panic!("{e}"); }
}
