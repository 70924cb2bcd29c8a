// Shared by the generator and the drift test: what is compiled, and with which options.

/// The protos of this crate, by file name.
const PROTOS: [&str; 5] = [
    "pluginregistration.proto",
    "dra_v1.proto",
    "dra_v1beta1.proto",
    "dra_health_v1.proto",
    "dra_health_v1alpha1.proto",
];

fn generate(root: &std::path::Path, out: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let protos = root.join("protos");
    let set = protox::compile(PROTOS, [protos.as_path()])?;
    std::fs::create_dir_all(out)?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .build_transport(false)
        // Stable order on the wire and in tests.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(out)
        .compile_fds(set)?;
    Ok(())
}
