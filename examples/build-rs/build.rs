//! Compiles the digit classifier each time the model changes. For a GPU add `.target("sm_90a")`, the tactics that
//! `bakelite tune` wrote with `.tactics("digits.tactics")`, and where NVRTC is with `.nvrtc(...)`.

fn main() -> Result<(), bakelite::Error> {
    println!("cargo:rerun-if-changed=build.rs");
    bakelite::build("../digits/digits_cnn.onnx").name("digits").target("host").symbol("batch", 1, 64, 1).emit()
}
