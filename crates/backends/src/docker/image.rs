//! Images: present already, pulled, or missing with the daemon's words.
//!
//! It refuses to decide whether a pull is wanted. The one invariant: after success the image was seen on this daemon.

use super::credentials;
use super::refusal::Refusal;
use crate::{BackendError, Result};
use bollard::Docker;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptions;
use futures::StreamExt;
use std::path::Path;

/// What the daemon has under that name; [`BackendError::ImageMissing`] when it has nothing.
pub(crate) async fn inspect(docker: &Docker, image: &str) -> Result<ImageInspect> {
    match docker.inspect_image(image).await.map_err(Refusal::from) {
        Ok(found) => Ok(found),
        Err(refusal) if refusal.is_absent() => {
            Err(BackendError::ImageMissing(refusal.words().unwrap_or(image).to_owned()))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// Pulls it with the login of its registry; [`BackendError::ImageMissing`] with the daemon's words.
pub(crate) async fn pull(docker: &Docker, image: &str, config: Option<&Path>) -> Result<()> {
    let (name, tag) = name_and_tag(image);
    let options = CreateImageOptions {
        from_image: Some(name.to_owned()),
        tag: Some(tag.to_owned()).filter(|tag| !tag.is_empty()),
        ..Default::default()
    };
    let login = match config {
        Some(directory) => credentials::for_image(directory, image).await,
        None => None,
    };
    let mut progress = docker.create_image(Some(options), None, login);
    while let Some(line) = progress.next().await {
        match line.map_err(Refusal::from) {
            Ok(info) => {
                if let Some(words) = info.error_detail.and_then(|detail| detail.message) {
                    return Err(BackendError::ImageMissing(words));
                }
            }
            Err(Refusal::Said { words, .. }) => return Err(BackendError::ImageMissing(words)),
            Err(refusal) => return Err(refusal.into()),
        }
    }
    inspect(docker, image).await.map(drop)
}

/// Splits a reference for the daemon; without a tag it would pull all of them.
fn name_and_tag(image: &str) -> (&str, &str) {
    if image.contains('@') {
        return (image, "");
    }
    let last = image.rfind('/').map_or(0, |at| at + 1);
    match image[last..].find(':') {
        Some(colon) => (&image[..last + colon], &image[last + colon + 1..]),
        None => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_split_where_the_tag_begins() {
        assert_eq!(name_and_tag("september-engine"), ("september-engine", "latest"));
        assert_eq!(name_and_tag("september-engine:1.2"), ("september-engine", "1.2"));
        assert_eq!(name_and_tag("registry:5000/a/b"), ("registry:5000/a/b", "latest"));
        assert_eq!(name_and_tag("registry:5000/a/b:1"), ("registry:5000/a/b", "1"));
        assert_eq!(name_and_tag("a@sha256:00"), ("a@sha256:00", ""));
    }
}
