//! Writes `man/*.1`, `completions/` and the configuration's schema anew from the program's types, as
//! `make reference` does. A test compares what is committed.

mod files;

fn main() -> anyhow::Result<()> {
    let wanted = files::wanted()?;
    for stale in files::committed()?
        .iter()
        .filter(|it| !wanted.contains_key(*it))
    {
        std::fs::remove_file(files::root().join(stale))?;
    }
    for (path, content) in wanted {
        std::fs::write(files::root().join(path), content)?;
    }
    Ok(())
}
