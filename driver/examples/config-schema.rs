//! Prints the JSON schema of the controller's configuration, as docs/controller-config.schema.json has it.

fn main() {
    println!("{:#}", vnpu_driver::controller_config::ControllerConfig::schema());
}
