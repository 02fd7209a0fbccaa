"""Files on local disks and in object stores, by path or URI; every read and write goes through this room."""

from gan_dist.core.storage.files import (
    append_text,
    copy_tree,
    delete_empty_folder,
    delete_file,
    delete_tree,
    exists,
    file_sizes,
    join,
    list_names,
    names_below,
    read_bytes,
    read_text,
    remove_created_folders,
    require_writable,
    write_bytes,
)
from gan_dist.core.storage.filesystems import BACKENDS, StorageOptions, configure, open_uri, options
from gan_dist.core.storage.redaction import redact
from gan_dist.core.storage.retry import bucket_of, require_bucket, retrying

__all__ = [
    "BACKENDS",
    "StorageOptions",
    "append_text",
    "bucket_of",
    "configure",
    "copy_tree",
    "delete_empty_folder",
    "delete_file",
    "delete_tree",
    "exists",
    "file_sizes",
    "join",
    "list_names",
    "names_below",
    "open_uri",
    "options",
    "read_bytes",
    "read_text",
    "redact",
    "remove_created_folders",
    "require_bucket",
    "require_writable",
    "retrying",
    "write_bytes",
]
