//! `products …`: endpoints 15 to 20, as the operator.
//!
//! A platform key is printed once, when it is made; nothing can show it again.

use super::api::{Api, As};
use super::{Exit, Stop, emit, emit_json};
use chassis::terminal::{self, Paint};
use clap::{Args, Subcommand};
use contract::Slug;
use contract::fleet_api::{
    DeleteProductResponse, PolicyDocument, ProductDetail, ProductList, ProductRecord, RegisterRequest,
    RegisterResponse, RotatePlatformKeyRequest, RotatePlatformKeyResponse,
};
use reqwest::Method;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Products asked for in one page. Larger answers slower and never shorter; smaller costs round trips.
const PAGE: u32 = 1000;

/// Largest policy file that is read. The API refuses bodies above 64 KiB.
const POLICY_MAX_BYTES: u64 = 64 * 1024;

/// What can be done with products.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a product; prints its platform key, once
    #[command(
        after_help = "Example:\n  bap-engine products register demo --name 'Demo' --policy '{\"max_engines\":100}'"
    )]
    Register {
        /// Short name: 1..63 of a-z, 0-9 and -
        slug: String,
        /// Name for people [default: the short name]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// List all products
    List,
    /// Show one product
    Show {
        /// Id or short name
        product: String,
    },
    /// Replace a product's policy
    #[command(
        after_help = "Example:\n  bap-engine products set-policy demo --policy '{\"rate_limit_rpm\":600}'"
    )]
    SetPolicy {
        /// Id or short name
        product: String,
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Make a new platform key; the old one works until the overlap is over
    RotatePlatformKey {
        /// Id or short name
        product: String,
        /// Seconds the old key keeps working [default: ORCH_PLATFORM_KEY_OVERLAP_S of the server]
        #[arg(long, value_name = "SECONDS")]
        overlap: Option<u64>,
    },
    /// Remove a product
    Delete {
        /// Id or short name
        product: String,
        /// Remove its engines and their brains, too; irreversible
        #[arg(long)]
        destroy_engines: bool,
    },
}

/// A policy, given as text or as a file.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct PolicyArgs {
    /// Policy as JSON
    #[arg(long, value_name = "JSON")]
    policy: Option<String>,
    /// File with the policy as JSON; - is standard input
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
}

impl PolicyArgs {
    fn read(&self) -> Result<Option<Value>, Stop> {
        let text = match (&self.policy, &self.policy_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read_policy(path)?,
            (None, None) => return Ok(None),
        };
        let value: Value =
            serde_json::from_str(&text).map_err(|e| Stop::usage(format!("the policy is not JSON: {e}")))?;
        if value.is_object() { Ok(Some(value)) } else { Err(Stop::usage("the policy is not a JSON object")) }
    }
}

fn read_policy(path: &Path) -> Result<String, Stop> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(POLICY_MAX_BYTES + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(POLICY_MAX_BYTES + 1).read_to_string(&mut text))
    };
    match read {
        Ok(count) if count as u64 > POLICY_MAX_BYTES => {
            Err(Stop::usage(format!("{} is larger than {POLICY_MAX_BYTES} bytes", path.display())))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(Stop::usage(format!("{}: {error}", path.display()))),
    }
}

/// Performs one of the commands.
pub async fn run(api: &Api, command: &Command, json: bool, paint: Paint) -> Result<Exit, Stop> {
    const NONE: Option<&()> = None;
    match command {
        Command::Register { slug, name, policy } => {
            let slug = Slug::parse(slug).map_err(|e| Stop::usage(format!("{slug}: {e}")))?;
            let display_name = name.clone().unwrap_or_else(|| slug.as_str().to_owned());
            let body = RegisterRequest { slug, display_name, policy: policy.read()? };
            let made: RegisterResponse =
                api.call(As::Admin, Method::POST, &["products", "register"], &[], Some(&body)).await?;
            if json {
                return Ok(emit_json(&made));
            }
            Ok(emit(&format!(
                "product  {} ({})\nkey      {}\n{}\n",
                made.slug,
                made.product_id,
                made.platform_api_key.expose(),
                paint.dim("keep the key now: it is stored as a hash and cannot be shown again")
            )))
        }
        Command::List => list(api, json, paint).await,
        Command::Show { product } => {
            let found: ProductDetail =
                api.call(As::Admin, Method::GET, &["products", product], &[], NONE).await?;
            Ok(if json { emit_json(&found) } else { emit(&detail(&found)) })
        }
        Command::SetPolicy { product, policy } => {
            let Some(policy) = policy.read()? else {
                return Err(Stop::usage("give the policy with --policy or --policy-file"));
            };
            let body = PolicyDocument { policy };
            let now: PolicyDocument =
                api.call(As::Admin, Method::PUT, &["products", product, "policy"], &[], Some(&body)).await?;
            Ok(if json { emit_json(&now) } else { emit(&format!("{:#}\n", now.policy)) })
        }
        Command::RotatePlatformKey { product, overlap } => {
            let body = RotatePlatformKeyRequest { overlap_seconds: *overlap };
            let path = ["products", product.as_str(), "rotate-platform-key"];
            let made: RotatePlatformKeyResponse =
                api.call(As::Admin, Method::POST, &path, &[], Some(&body)).await?;
            if json {
                return Ok(emit_json(&made));
            }
            let old = match made.previous_key_expires_at {
                Some(at) => format!("the old key works until {at}"),
                None => "the old key works no longer".to_owned(),
            };
            Ok(emit(&format!(
                "product  {}\nkey      {}\n{}\n",
                made.slug,
                made.platform_api_key.expose(),
                paint.dim(&old)
            )))
        }
        Command::Delete { product, destroy_engines } => {
            let query = [("destroy_engines", destroy_engines.to_string())];
            let gone: DeleteProductResponse =
                api.call(As::Admin, Method::DELETE, &["products", product], &query, NONE).await?;
            if json {
                return Ok(emit_json(&gone));
            }
            Ok(emit(&match gone.engines_left {
                0 => format!("{} is gone\n", gone.product_id),
                left => {
                    format!("{} is being removed; {left} engine(s) left, the work goes on\n", gone.product_id)
                }
            }))
        }
    }
}

async fn list(api: &Api, json: bool, paint: Paint) -> Result<Exit, Stop> {
    const NONE: Option<&()> = None;
    let mut products: Vec<ProductRecord> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", PAGE.to_string())];
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: ProductList = api.call(As::Admin, Method::GET, &["products"], &query, NONE).await?;
        let empty = page.products.is_empty();
        products.extend(page.products);
        match page.next_cursor {
            Some(next) if !empty => cursor = Some(next),
            _ => break,
        }
    }
    if json {
        return Ok(emit_json(&serde_json::json!({ "products": products })));
    }
    let head = ["SLUG", "ENGINES", "CREATED", "ID", "NAME"].map(str::to_owned).to_vec();
    let rows = products.iter().map(|p| {
        vec![
            p.slug.to_string(),
            p.engines.to_string(),
            p.created_at.to_string(),
            p.product_id.to_string(),
            terminal::clean(&p.display_name),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    Ok(emit(&terminal::table(&rows, paint.columns)))
}

fn detail(found: &ProductDetail) -> String {
    let product = &found.product;
    let mut text = format!(
        "product   {} ({})\nname      {}\nengines   {}\ncreated   {}\n",
        product.slug,
        product.product_id,
        terminal::clean(&product.display_name),
        product.engines,
        product.created_at
    );
    if let Some(at) = found.previous_key_expires_at {
        text.push_str(&format!("old key   works until {at}\n"));
    }
    text.push_str(&format!("policy    {}\n", product.policy));
    text
}
