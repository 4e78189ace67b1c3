//! The parameter that names a release's image, and the end of older images.

use std::collections::BTreeMap;

use super::ami::GLANCES;
use super::target::target;
use super::wait;
use crate::channel::CloudImage;
use crate::lock::date;
use crate::publish::PublishError;
use crate::remote::aws::{Aws, ec2, ssm};

/// Stands for the architecture in a parameter's name.
const ARCH: &str = "{arch}";

/// The parameter's name for images of an architecture.
///
/// # Errors
/// [`PublishError::Target`] for a name that AWS does not take.
pub fn parameter_of(path: &str, arch: &str) -> Result<String, PublishError> {
    let name = path.replace(ARCH, arch);
    match ssm::wrong_name(&name) {
        Some(why) => Err(target(path, why)),
        None => Ok(name),
    }
}

/// Region and parameter to the image that it is to name.
pub(super) fn plan<'a>(
    path: &str,
    images: &'a [CloudImage],
) -> Result<BTreeMap<(&'a str, String), &'a str>, PublishError> {
    let mut plan = BTreeMap::new();
    for image in images.iter().filter(|image| image.provider == super::AWS) {
        let name = parameter_of(path, &image.arch)?;
        let before = plan.insert((image.region.as_str(), name), image.id.as_str());
        if before.is_some_and(|before| before != image.id) {
            return Err(target(
                path,
                "it would name images of several boards; write {arch} in it",
            ));
        }
    }
    Ok(plan)
}

/// Lets the parameter name these images, each in its region; how many it did not name before.
///
/// # Errors
/// [`PublishError`]; some regions may have been switched: doing it again does the others.
pub fn switch(aws: &Aws, path: &str, images: &[CloudImage]) -> Result<usize, PublishError> {
    let plan = plan(path, images)?;
    let mut changed = 0;
    for ((region, name), id) in plan {
        if aws.parameter(region, &name)?.as_deref() == Some(id) {
            continue;
        }
        aws.name_image(region, &name, id)?;
        // The service looks at the image after it has answered, and may still refuse it.
        let what = format!("{name} in {region}");
        wait(aws.pause(), &what, GLANCES, || {
            let named = aws.parameter(region, &name)?;
            Ok((named.as_deref() == Some(id)).then_some(()))
        })?;
        changed += 1;
    }
    Ok(changed)
}

/// Deprecates `old` from `at` (seconds since 1970) on, unless that is so already, and takes
/// it back for `now`, which are in use; how many were changed. What is gone is passed over.
///
/// # Errors
/// [`PublishError::Remote`].
pub fn deprecate(
    aws: &Aws,
    old: &[CloudImage],
    now: &[CloudImage],
    at: i64,
) -> Result<usize, PublishError> {
    let at = date::rfc3339(at);
    let mut changed = 0;
    for (image, ends) in old
        .iter()
        .map(|image| (image, true))
        .chain(now.iter().map(|image| (image, false)))
        .filter(|(image, _)| image.provider == super::AWS)
    {
        let look = ec2::describe_images(&image.region, "image-id", &image.id);
        let Some(found) = aws.images(&look)?.into_iter().next() else {
            continue;
        };
        if found.deprecated.is_some() == ends {
            continue;
        }
        let call = if ends {
            ec2::deprecate_image(&image.region, &image.id, &at)
        } else {
            ec2::keep_image(&image.region, &image.id)
        };
        aws.change(&call)?;
        changed += 1;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(region: &str, arch: &str, id: &str) -> CloudImage {
        CloudImage {
            provider: super::super::AWS.to_owned(),
            region: region.to_owned(),
            board: format!("aws-{arch}"),
            arch: arch.to_owned(),
            id: id.to_owned(),
            snapshot: None,
        }
    }

    #[test]
    fn a_parameter_names_one_image_in_a_region() {
        let two = [
            image("r-1", "x86_64", "ami-1"),
            image("r-2", "x86_64", "ami-2"),
        ];
        assert_eq!(plan("/a", &two).unwrap().len(), 2);
        let both = [
            image("r-1", "x86_64", "ami-1"),
            image("r-1", "arm64", "ami-2"),
        ];
        let error = plan("/a", &both).unwrap_err().to_string();
        assert!(error.contains("{arch}"), "{error}");
        let names = plan("/a/{arch}", &both).unwrap();
        assert_eq!(names[&("r-1", "/a/arm64".to_owned())], "ami-2");
        assert!(plan("a", &two).is_err());
    }
}
