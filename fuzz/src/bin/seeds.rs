//! Writes the corpus that the fuzzers begin with, from the shared vectors: `seeds SHARED CORPUS`.

use std::path::Path;

use blockremote_fuzz::entries::{TARGETS, Vectors};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shared, corpus] = arguments.as_slice() else {
        return Err(std::io::Error::other("say where the shared vectors lie and where the corpus goes"));
    };
    let vectors = Vectors::under(Path::new(shared)).ok_or_else(|| std::io::Error::other("there are no vectors"))?;
    for target in TARGETS {
        let folder = Path::new(corpus).join(target.name);
        std::fs::create_dir_all(&folder)?;
        let seeds = (target.seeds)(&vectors);
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
        println!("{}: {} seeds", target.name, seeds.len());
    }
    Ok(())
}
