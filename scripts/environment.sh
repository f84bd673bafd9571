# shellcheck shell=bash
# Sourced by the other scripts: creates the virtual environment .venv, and reuses it if it is current.
# Works with bash 3.2, the version of macOS.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
python="$venv/bin/python"

fail() {
  echo "error: $*" >&2
  exit 2
}

# make_environment use|dev: install this checkout into .venv, with its development tools for dev.
make_environment() {
  local backend extras
  case "$(uname -s)" in
    Darwin) backend=metal ;; # included in mlx
    *) backend="${QWEN35_BACKEND:-cpu}" ;;
  esac
  case "$1 $backend" in
    "use metal") extras="" ;;
    "dev metal") extras="[dev]" ;;
    "use cpu" | "use cuda") extras="[$backend]" ;;
    "dev cpu" | "dev cuda") extras="[$backend,dev]" ;;
    *) fail "QWEN35_BACKEND is '$backend': it must be cpu or cuda" ;;
  esac

  # Reuse .venv unless the backend, the folder or the requirements have changed.
  if [ -x "$python" ] && { is_made "$1" "$backend" || is_made dev "$backend"; }; then
    return
  fi
  if [ -e "$venv" ] && [ ! -f "$venv/made-for" ]; then
    fail "$venv was not created by this script: move it away"
  fi
  # Start over for another backend, since both Linux backends install the same files, and after the
  # checkout has moved, since an environment contains absolute paths.
  if [ ! -x "$python" ] || [ "$(cat "$venv/made-for")" != "$backend $root" ]; then
    create_venv "$backend $root"
  fi
  rm -f "$venv/made-use" "$venv/made-dev"
  step "downloading and installing packages"
  install_packages -c "$root/constraints.txt" -e "$root$extras" 2>&1 |
    tee "$venv/install.log" | show_progress || {
    cat "$venv/install.log" >&2
    fail "the packages could not be installed: see above"
  }
  fingerprint "$backend" >"$venv/made-$1"
  step "ready after $SECONDS s"
}

# install_packages ARGUMENTS: of `pip install`. Nothing is built but this checkout. Bytecode is left
# to the first import, which needs a part of the modules.
install_packages() {
  if has_uv; then
    uv pip install --python "$python" --only-binary :all: "$@"
    return
  fi
  local pip=("$python" -m pip)
  if ! "$python" -c 'import pip' 2>/dev/null; then
    pip=("$(find_python)" -m pip --python "$python")
  fi
  "${pip[@]}" install --disable-pip-version-check --progress-bar off --no-compile \
    --only-binary :all: "$@"
}

step() {
  echo "qwen35-mlx: $*" >&2
}

# show_progress: on a terminal, the newest line of standard input that names a package.
show_progress() {
  local line shown=
  while IFS= read -r line; do
    line="${line#"${line%%[! ]*}"}"
    case "$line" in
      Downloading*\(*) line="${line%%-[0-9]*} (${line##*(}" ;; # no tags of a wheel, but its size
      Collecting* | Preparing* | Resolved* | Building* | Prepared* | Install*) ;;
      *) continue ;;
    esac
    if [ -t 2 ]; then
      printf '\r\033[K  %3d s  %.60s' "$SECONDS" "$line" >&2
      shown=yes
    fi
  done
  if [ -n "$shown" ]; then
    printf '\r\033[K' >&2
  fi
}

has_uv() {
  command -v uv >/dev/null 2>&1
}

# create_venv MARK: an empty environment. MARK is written first, so that an interrupted run is
# recognised as ours.
create_venv() {
  local base="" without_pip=()
  step "creating an environment in $venv, once"
  if ! has_uv; then
    base="$(find_python)" || fail "no Python 3.11 or newer found: install it, or uv"
  fi
  rm -rf "$venv"
  mkdir "$venv"
  echo "$1" >"$venv/made-for"
  if [ -z "$base" ]; then
    uv venv --quiet --allow-existing --python '>=3.11' "$venv" ||
      fail "uv could not create an environment: see above"
  else
    # Three seconds less, where the pip of $base can install into another environment (22.3).
    if "$base" -c 'import pip, sys
sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (22, 3))' 2>/dev/null; then
      without_pip=(--without-pip)
    fi
    "$base" -m venv ${without_pip[@]+"${without_pip[@]}"} "$venv" ||
      fail "$base could not create an environment: see above, or install uv"
  fi
}

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# is_made use|dev BACKEND
is_made() {
  [ -f "$venv/made-$1" ] && [ "$(cat "$venv/made-$1")" = "$(fingerprint "$2")" ]
}

fingerprint() {
  echo "$1 $root"
  cat "$root/pyproject.toml" "$root/constraints.txt" | cksum
}
