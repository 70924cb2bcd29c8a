//! Prints the JSON schema of a file that describes a vendor's devices, as docs/generic-devices.schema.json has it.

fn main() -> Result<(), serde_json::Error> {
    println!("{}", serde_json::to_string_pretty(&vnpu_discovery::generic::GenericDevices::schema())?);
    Ok(())
}
