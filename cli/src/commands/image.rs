//! `stint image`: the registry of images.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use stint_sdk::api::Image;
use stint_sdk::{Source, units, v1};

use super::Context;
use crate::Done;
use crate::failure::Failure;
use crate::output::{Format, talk};
use crate::spool::Spool;
use crate::table::{Cell, Table, Tone};
use crate::view::{age, content, now_ms, size};

const EXAMPLES: &str = "\
Examples:
  stint image register tool ./tool                       a program; its tasks: --image stint://tool
  stint image register base rootfs.tar.gz                a root file system, or an OCI or docker-save archive
  docker save team/app:1 | stint image register app -    from a pipe
  stint image register web --docker ghcr.io/team/web:1   a name for what Docker pulls
  stint image ls
  stint image rm tool                                    tasks that use it keep it";

/// Between two looks of the person who waits.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const HINT: &str = "`stint image ls` lists the images";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ImageArgs {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Subcommand, Debug)]
pub enum ImageCommand {
    /// List an image under a name; the same name again replaces it for new tasks
    Register(RegisterArgs),
    /// List the images
    Ls(ListArgs),
    /// Show one image: digest, size, which nodes have it, how many tasks use it
    Show(Named),
    /// Take an image off the list; tasks that use it keep it until they are finished
    Rm(Named),
}

#[derive(Args, Debug)]
pub struct RegisterArgs {
    /// Words of letters, digits, '.', '_' and '-', with '/' or ':' between them
    pub name: String,
    /// The image's file; - for standard input (a pipe is read to its end first, to a file in $TMPDIR or /var/tmp)
    #[arg(required_unless_present = "docker", conflicts_with = "docker")]
    pub file: Option<PathBuf>,
    /// executable or rootfs [default: told from its first bytes]
    #[arg(long, value_name = "KIND", conflicts_with = "docker")]
    pub kind: Option<String>,
    /// Keep this reference under the name, for the Docker runtime
    #[arg(long, value_name = "REFERENCE")]
    pub docker: Option<String>,
    /// What it is, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
    /// Refuse bytes with another digest
    #[arg(long, value_name = "sha256:…", conflicts_with = "docker")]
    pub digest: Option<String>,
}

#[derive(Args, Debug)]
pub struct ListArgs {
    /// Show no more than this many, by name (1000 at most)
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
    /// Show only names after this one: the next page
    #[arg(long, value_name = "NAME")]
    pub after: Option<String>,
}

#[derive(Args, Debug)]
pub struct Named {
    /// Name, name@sha256:… or id
    pub image: String,
}

pub async fn run(context: Context, args: ImageArgs) -> Done {
    match args.command {
        ImageCommand::Register(args) => register(context, args).await,
        ImageCommand::Ls(args) => list(context, args).await,
        ImageCommand::Show(named) => show(context, named.image).await,
        ImageCommand::Rm(named) => remove(context, named.image).await,
    }
}

async fn register(context: Context, args: RegisterArgs) -> Done {
    let progress = Arc::new(Progress::new());
    let bytes = bytes(args.file.as_deref(), &progress).await;
    progress.end();
    let bytes = bytes?;
    let header = v1::ImageHeader {
        tenant: context.tenant.clone(),
        name: args.name,
        kind: args.kind.unwrap_or_default(),
        description: args.description,
        size_bytes: bytes.as_ref().map(|bytes| bytes.size),
        digest: args.digest.unwrap_or_default(),
        reference: args.docker.unwrap_or_default(),
    };
    let progress = Arc::new(Progress::new());
    let (shown, total) = (progress.clone(), header.size_bytes);
    let sent = Arc::new(move |n| shown.add(n, "sent", total));
    let open = || std::future::ready(Ok(Some(source(bytes.as_ref()))));
    let result = context.client.register_image(header, open, sent).await;
    progress.end();
    let image = Image::from(result?);
    context.output.show(&image, [image.name.clone()], || details(&image))?;
    if context.output.format == Format::Table {
        talk(&format!("run it with --image stint://{}", image.name));
    }
    Ok(0)
}

/// What is sent, none for a name of a Docker reference. A pipe is read to its end, so that it can be sent again when a
/// peer goes away.
async fn bytes(file: Option<&Path>, progress: &Arc<Progress>) -> Result<Option<Spool>, Failure> {
    let (Some(file), shown) = (file, progress.clone()) else { return Ok(None) };
    let read = move |n| shown.add(n, "read", None);
    if file == Path::new("-") {
        return Spool::of_stdin(read).await.map(Some);
    }
    if file.is_dir() {
        let advice =
            "register an archive of it, for example `tar -C FOLDER -c . | stint image register NAME -`";
        return Err(Failure::Usage(format!("{} is a folder: {advice}", file.display())));
    }
    Spool::of_path(file, read).await.map(Some)
}

/// From the beginning.
fn source(bytes: Option<&Spool>) -> Source {
    bytes.map_or_else(|| -> Source { Box::pin(tokio::io::empty()) }, Spool::source)
}

/// How far it is, for whoever looks at a terminal.
struct Progress {
    done: AtomicU64,
    shown: Mutex<Option<Instant>>,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { done: AtomicU64::new(0), shown: Mutex::new(None), terminal }
    }

    /// `what` is done with them: "sent".
    fn add(&self, bytes: u64, what: &str, total: Option<u64>) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut shown = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        if !self.terminal || shown.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
            return;
        }
        *shown = Some(Instant::now());
        let of = total.map(|total| format!(" of {}", units::show_bytes(total))).unwrap_or_default();
        // A closed terminal needs no progress.
        let _ = write!(std::io::stderr(), "\rstint: {}{of} {what} ", units::show_bytes(done));
    }

    fn end(&self) {
        if self.shown.lock().unwrap_or_else(|e| e.into_inner()).is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

async fn list(context: Context, args: ListArgs) -> Done {
    let (tenant, after) = (context.tenant.clone(), args.after.unwrap_or_default());
    let request = v1::ListImagesRequest { tenant, limit: args.limit.max(1), after };
    let reply = context.client.list_images(request).await?;
    let images: Vec<Image> = reply.images.into_iter().map(Image::from).collect();
    let names: Vec<String> = images.iter().map(|image| image.name.clone()).collect();
    context.output.show(&images, names, || table(&images, now_ms()))?;
    if context.output.format == Format::Table && !reply.next.is_empty() {
        talk(&format!("there are more: raise --limit, or --after {}", reply.next));
    }
    Ok(0)
}

async fn show(context: Context, image: String) -> Done {
    let request = v1::GetImageRequest { tenant: context.tenant.clone(), image };
    let image = Image::from(context.client.get_image(request).await?);
    context.output.show(&image, [image.name.clone()], || details(&image))?;
    Ok(0)
}

async fn remove(context: Context, image: String) -> Done {
    let request = v1::DeleteImageRequest { tenant: context.tenant.clone(), image };
    let image = Image::from(context.client.delete_image(request).await?);
    context.output.show(&image, [image.name.clone()], || format!("{} removed", image.name))?;
    if image.used_by > 0 && context.output.format == Format::Table {
        talk(&format!("{} task(s) still use it and keep it; {HINT} that are left", image.used_by));
    }
    Ok(0)
}

fn table(images: &[Image], now_ms: u64) -> Table {
    let mut table = Table::new(&["NAME", "KIND", "SIZE", "AGE", "USED BY", "NODES", "DIGEST"]);
    for image in images {
        table.row(vec![
            image.name.clone().into(),
            image.kind.clone().into(),
            size(image).into(),
            age(image.created_at_ms, now_ms).into(),
            image.used_by.to_string().into(),
            image.nodes.join(",").into(),
            Cell::new(content(image), Tone::Faint),
        ]);
    }
    table
}

fn details(image: &Image) -> Table {
    let mut table = Table::pairs();
    table
        .pair("name", image.name.as_str())
        .pair("id", image.id.as_str())
        .pair("kind", image.kind.as_str())
        .pair("digest", image.digest.clone().unwrap_or_default())
        .pair("reference", image.reference.clone().unwrap_or_default())
        .pair("size", size(image))
        .pair("description", image.description.as_str())
        .pair("age", age(image.created_at_ms, now_ms()))
        .pair("used by", format!("{} task(s)", image.used_by))
        .pair("nodes", image.nodes.join(", "));
    table
}
