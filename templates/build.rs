//! Has the program compiled anew when a file comes to or goes from a directory that it contains.

fn main() {
    for directory in ["branding", "templates/guest", "templates/packer"] {
        println!("cargo:rerun-if-changed={directory}");
    }
}
