"""AWS settings: those that can never work are refused at once, and both backends follow the others alike."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.core.storage import BACKENDS, StorageOptions, retry
from gan_dist.core.storage.aws_settings import endpoint_and_region, needs_s3fs, store_url
from tests.support.faults import proxy
from tests.support.ports import free_port

backends = pytest.mark.parametrize("backend", get_args(BACKENDS))


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The AWS configuration file, which tests write."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_DEFAULT_REGION", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    return file


def use(backend: BACKENDS, timeout_s: float = 20.0) -> None:
    storage.configure(StorageOptions(backend, timeout_s))


@pytest.mark.usefixtures("no_network", "bucket")
@pytest.mark.parametrize(
    ("variables", "config", "said"),
    [
        (
            {"AWS_ENDPOINT_URL": "127.0.0.1:9000"},
            "",
            r"URL=127\.0\.0\.1:9000 does not begin with http:",
        ),
        ({"AWS_ENDPOINT_URL_S3": "localhost:9000"}, "", "localhost:9000 does not begin with http://"),
        (
            {"AWS_ENDPOINT_URL": "http://minio_1:9000"},
            "",
            "hosts' names have letters, digits, hyphens",
        ),
        (
            {"AWS_ENDPOINT_URL": "http://store:port"},
            "",
            r"is not a URL; write one such as https://store\.example",
        ),
        ({"AWS_ENDPOINT_URL": "http://"}, "", "write a URL such as"),
        (
            {"AWS_DEFAULT_REGION": "eu central 1"},
            "",
            "the region 'eu central 1' is no name of one",
        ),
        ({}, "[default]\ns3 = x\n", "the AWS profile has s3 = x, where lines of settings must follow it"),
        (
            {},
            "[default]\nendpoint_url = store:9000\n",
            "endpoint_url of the profile=store:9000 does",
        ),
        ({"AWS_PROFILE": "nobody"}, "", r"nobody"),
    ],
)
def test_settings_that_can_never_work_are_refused_at_once(
    variables: dict[str, str],
    config: str,
    said: str,
    profile: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile.write_text(config)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    timeout_s = 20 + hash(said) % 1000 / 1000  # filesystems are kept by options and URI
    actions: list[tuple[BACKENDS, Callable[[str], object]]] = [
        ("pyarrow", storage.exists),
        ("s3fs", storage.exists),
        ("pyarrow", storage.delete_file),
        ("pyarrow", storage.require_bucket),
        ("pyarrow", store_url),
    ]
    for backend, action in actions:
        use(backend, timeout_s)
        with pytest.raises(StorageError, match=said):
            action("s3://bucket/run")


@backends
def test_two_slashes_in_a_row_are_refused_at_once(backend: BACKENDS, bucket: str) -> None:
    use(backend)
    for uri in (f"{bucket}//runs", f"{bucket}/a//b"):
        with pytest.raises(StorageError, match="it has two slashes in a row"):
            storage.exists(uri)
    assert not storage.exists(f"{bucket}/runs/")


def test_the_endpoint_of_a_profiles_services_is_followed_unless_it_is_to_be_ignored(
    bucket: str, s3_url: str, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    text = f"[default]\nregion = us-east-1\nservices = lab\n[services lab]\ns3 =\n  endpoint_url = {s3_url}\n"
    profile.write_text(text)
    for seconds, backend in enumerate(get_args(BACKENDS), 31):
        use(backend, seconds)
        storage.write_bytes(f"{bucket}/{backend}", b"x")
        assert storage.read_bytes(f"{bucket}/{backend}") == b"x"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert endpoint_and_region("") == (None, "us-east-1")


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context for 127.0.0.1, and the certificate that clients must trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "company")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "company.pem", folder / "key.pem"
    public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public


@backends
def test_a_companys_certificate_is_trusted_by_everything_that_asks_the_store(
    backend: BACKENDS, bucket: str, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, public = certificate(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(public))
    with proxy(s3_url, tls=context) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{store.port}")
        use(backend, timeout_s=41.0)
        storage.require_writable(f"{bucket}/run/file")
        storage.write_bytes(f"{bucket}/run/file", b"x")
        assert storage.read_bytes(f"{bucket}/run/file") == b"x"
        storage.delete_tree(f"{bucket}/run")
        assert storage.list_names(bucket) == []
        assert store.counts["pass"] > 4


@backends
def test_a_proxy_is_gone_through_by_everything_and_a_dead_one_is_named(
    backend: BACKENDS, bucket: str, s3_url: str, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # s3fs by itself has the bucket in the host's name, which this proxy leaves out.
    profile.write_text("[default]\ns3 =\n  addressing_style = path\n" if backend == "s3fs" else "")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with proxy(s3_url) as middle:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{middle.port}")
        use(backend, timeout_s=42.0)
        storage.write_bytes(f"{bucket}/run/file", b"x")
        assert storage.read_bytes(f"{bucket}/run/file") == b"x"
        storage.delete_tree(f"{bucket}/run")
        assert storage.list_names(bucket) == []
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://other.invalid")
    monkeypatch.setattr(retry, "TRIES_AT_UNKNOWN", 1)
    use(backend, timeout_s=43.0)
    with pytest.raises(
        StorageError,
        match=r"nobody answers .* HTTP_PROXY=http://127.* NO_PROXY=other\.inv",
    ):
        storage.read_bytes("s3://elsewhere/file")


@pytest.mark.parametrize(
    ("variables", "config", "named"),
    [
        ({}, "region = us-east-1", ""),
        ({}, "s3 =\n  addressing_style = virtual", "s3.addressing_style"),
        ({}, "s3 =\n  max_concurrent_requests = 20", ""),
        ({}, "role_arn = arn:aws:iam::1:role/x\nsource_profile = y", "role_arn"),
        ({"AWS_ACCESS_KEY_ID": "A"}, "role_arn = arn:aws:iam::1:role/x\nsource_profile = y", ""),
        ({}, "sso_session = x", "sso_session"),
        ({}, "ca_bundle = /etc/company.pem", "ca_bundle"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "", "AWS_USE_FIPS_ENDPOINT"),
        ({"AWS_USE_FIPS_ENDPOINT": "false"}, "", ""),
        ({"http_proxy": "http://proxy"}, "", "a proxy"),
        ({"http_proxy": "http://proxy", "no_proxy": "127.0.0.1"}, "", ""),
    ],
)
def test_what_pyarrow_does_not_follow_is_found(
    variables: dict[str, str], config: str, named: str, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_ACCESS_KEY_ID", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    profile.write_text(f"[default]\n{config}\n")
    assert needs_s3fs("http://127.0.0.1:9000") == named
