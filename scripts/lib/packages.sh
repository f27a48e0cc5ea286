# shellcheck shell=bash
# Debian packages: installing what a command needs, and unpacking packages of any suite into
# a folder without installing them. Sourced by scripts/setup.

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# install_packages PACKAGE...: from the system's own sources.
install_packages() {
    say "installing $*"
    [ -n "${apt_updated:-}" ] || apt-get -qq -o DPkg::Lock::Timeout=300 update
    apt_updated=1
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@" >&2
}

# candidate PACKAGE: the version that apt would install; empty if there is none.
candidate() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -vxF '(none)' || true
}

# own_suite: the name of the release that runs here.
own_suite() {
    # shellcheck source=/dev/null
    (. /etc/os-release && echo "$VERSION_CODENAME")
}

# debian_mirror: the address from which this system's own apt takes its suite. Both forms of
# sources are read, and the address is taken as it stands: it may be mirror+file:… too.
debian_mirror() {
    local codename
    codename=$(own_suite)
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -nE "s/^deb +(\[[^]]*\] +)?([^ ]+) +$codename +.*/\2/p"
    awk -v suite="$codename" -v RS= -F'\n' '{
        uri = ""; found = 0
        for (i = 1; i <= NF; i++) {
            n = split($i, word, /[ \t]+/)
            if (word[1] == "URIs:") uri = word[2]
            if (word[1] == "Suites:") for (j = 2; j <= n; j++) if (word[j] == suite) found = 1
        }
        if (found && uri != "") print uri
    }' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
}

# suite_apt STATE SUITE COMMAND...: apt-get with a state of its own in STATE/SUITE that knows
# SUITE only, and takes nothing for installed. Signatures are checked; the expiry date is not,
# for a mirror may be a snapshot.
suite_apt() {
    local state=$1/$2 suite=$2 mirror options
    shift 2
    options=(
        -qq -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State=$state" -o "Dir::State::lists=$state/lists" -o Dir::State::status=/dev/null
        -o "Dir::Cache::archives=$state/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
        -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Debug::NoLocking=true
    )
    if [ ! -e "$state/sources.list" ]; then
        mirror=$(debian_mirror | head -n 1)
        [ -n "$mirror" ] || { say "no Debian mirror in /etc/apt"; return 1; }
        mkdir -p "$state"/lists/partial "$state"/archives/partial
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
            >"$state/sources.list"
        apt-get "${options[@]}" update
    fi
    apt-get "${options[@]}" "$@" </dev/null
}

# unpack_packages STATE SUITE FOLDER PACKAGE...: into FOLDER, the packages alone.
unpack_packages() {
    local archives=$1/$2/archives state=$1 suite=$2 folder=$3 file
    shift 3
    mkdir -p "$folder" "$archives"
    rm -f "$archives"/*.deb
    (cd "$archives" && suite_apt "$state" "$suite" download "$@")
    for file in "$archives"/*.deb; do dpkg -x "$file" "$folder"; done
}

# unpack_closure STATE SUITE FOLDER PACKAGE...: into FOLDER, the packages and all they depend on.
unpack_closure() {
    local archives=$1/$2/archives state=$1 suite=$2 folder=$3 file
    shift 3
    mkdir -p "$folder"
    rm -f "$archives"/*.deb
    suite_apt "$state" "$suite" install -y --download-only "$@" >/dev/null
    for file in "$archives"/*.deb; do dpkg -x "$file" "$folder"; done
}
