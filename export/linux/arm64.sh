#!/usr/bin/env bash
# An arm64 Python with LiteRT and ONNX Runtime under qemu-user, to prove artifacts with a Raspberry Pi 4's instructions.
#
#   bash arm64.sh        then: kerastune verify ARTIFACT --runtime arm64
#
# All of it goes into $KERASTUNE_HOME/arm64 (default ~/.cache/kerastune/arm64; 260 MB). No root, and nothing else changes: apt-get
# gets a state of its own, and packages are unpacked, not installed. Needs Debian on x86-64, and uv (pip install uv).
set -euo pipefail

home="${KERASTUNE_HOME:-$HOME/.cache/kerastune}/arm64"
give_up() { echo "arm64 cannot be set up here: $1" >&2; exit 1; }

if [ -x "$home/python" ]; then
  echo "arm64 is set up in $home"
  exit
fi
[ "$(uname -sm)" = "Linux x86_64" ] || give_up "it emulates arm64 on x86-64 Linux, and this is $(uname -sm)"
for tool in apt-get dpkg-deb uv; do
  command -v "$tool" > /dev/null || give_up "$tool is missing"
done

mkdir -p "$(dirname "$home")"
made=$(mktemp -d "$home.partial.XXXXXX")
trap 'rm -rf "$made"' EXIT
mkdir -p "$made/apt/lists/partial" "$made/apt/archives/partial" "$made/root/proc"
touch "$made/apt/status"

apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Architectures::=amd64 \
    -o Dir::State="$made/apt" -o Dir::State::status="$made/apt/status" -o Dir::Cache="$made/apt" \
    -o Dir::Cache::archives="$made/apt/archives" -o APT::Sandbox::User="$(id -un)" "$@"
}

echo "Unpacking an arm64 Python and qemu-user"
apt update || true # a source of the machine's may have nothing for arm64; the next line says if all had nothing
apt install --yes --download-only --no-install-recommends python3-minimal libpython3-stdlib libgomp1 libstdc++6 \
  || give_up "the machine's apt sources do not bring arm64 packages (Ubuntu keeps them at ports.ubuntu.com)"
for package in "$made"/apt/archives/*.deb; do
  dpkg-deb --extract "$package" "$made/root"
done
(cd "$made/apt" && apt download qemu-user-static:amd64) || give_up "the machine's apt sources do not bring qemu-user-static"
dpkg-deb --fsys-tarfile "$made"/apt/qemu-user-static_*.deb | tar -x -C "$made" --strip-components=3 ./usr/bin/qemu-aarch64-static
rm -r "$made/apt"

python=$(basename "$(readlink "$made/root/usr/bin/python3")")
uv pip install --quiet --target "$made/site" --python-version "${python#python}" --only-binary :all: \
  --python-platform aarch64-manylinux_2_28 ai-edge-litert onnxruntime \
  || give_up "the package index has no arm64 wheels of ai-edge-litert and onnxruntime"

# Without this, XNNPACK reads the machine's own cpuinfo, which is not ARM's, and crashes.
cat > "$made/root/proc/cpuinfo" << 'CPU'
processor	: 0
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3
CPU

# Always a named CPU: with qemu 7.2's "max", SME gives wrong int8 results.
cat > "$made/python" << PYTHON
#!/bin/sh
here=\$(dirname "\$0")
export PYTHONHOME="\$here/root/usr" PYTHONPATH="\$here/site" PYTHONDONTWRITEBYTECODE=1
exec "\$here/qemu-aarch64-static" -cpu cortex-a72 -L "\$here/root" "\$here/root/usr/bin/$python" "\$@"
PYTHON
chmod +x "$made/python"
"$made/python" -c "import ai_edge_litert.interpreter, onnxruntime, platform; print('Python', platform.python_version(), platform.machine())" \
  || give_up "the arm64 Python does not run"

chmod 755 "$made"
mv -T "$made" "$home"
echo "arm64 is set up in $home"
