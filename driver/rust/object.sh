#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
#
# The Rust part of the driver as one object: core, bitflags, strongroom-core and the driver's crate, compiled
# as the kernel's own Makefiles compile Rust (6.12: Makefile, arch/x86/Makefile, rust/Makefile), whether
# this kernel was built with Rust or not. Kbuild calls it.
#
#   object.sh KERNEL OBJECT
#
# KERNEL is the directory of a configured kernel. The crates' sources are beside this file. What is made on the way
# is kept below the directory KEPT, beside the object where it is not set: core depends on the compiler and the kernel's
# options alone. RUSTC, by the name STRONGROOM_RUSTC as the kernel's own build has another one of that name,
# is Debian's: its library's source is packaged for it, and one from elsewhere does not fit that.
set -eu
export LC_ALL=C

kernel=$1
object=$2
sources=$(cd "$(dirname "$0")" && pwd)
rustc=${STRONGROOM_RUSTC:-/usr/bin/rustc}
work=$(dirname "$object")/rust-work
kept=${STRONGROOM_RUST_KEPT:-$work}

fail() {
	echo "strongroom: $*" >&2
	exit 1
}

# What it writes is shown where it fails only: rustc warns of every flag that only kernels use.
quiet() {
	what=$1
	shift
	if ! said=$("$@" 2>&1); then
		fail "$what: $said"
	fi
}

# The value of an option of the kernel: y, a number, or nothing where it is not set.
option() {
	sed -n "s/^CONFIG_$1=//p" "$kernel/include/config/auto.conf"
}

has() {
	[ "$(option "$1")" = y ]
}

[ -r "$kernel/include/config/auto.conf" ] || fail "$kernel is no configured kernel"
has X86_64 || fail "this kernel is not for x86-64"
[ -x "$rustc" ] || fail "$rustc is not there (Debian: rustc-web)"
library=$("$rustc" --print sysroot)/lib/rustlib/src/rust/library
[ -r "$library/core/src/lib.rs" ] || fail "$library is not there (Debian: rust-web-src)"

features=-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2
set -- --crate-type=rlib --sysroot=/dev/null -Copt-level=2 -Cpanic=abort -Cembed-bitcode=n -Clto=n \
	-Cforce-unwind-tables=n -Ccodegen-units=1 -Crelocation-model=static -Ccode-model=kernel -Cno-redzone=y \
	-Cforce-frame-pointers=y -Cjump-tables=n -Zfunction-sections=y -Zunstable-options
if has X86_KERNEL_IBT; then set -- "$@" -Zcf-protection=branch; fi
if has MITIGATION_RETPOLINE; then set -- "$@" -Zretpoline-external-thunk; fi
if has MITIGATION_RETHUNK; then set -- "$@" -Zfunction-return=thunk-extern; fi
if has MITIGATION_SLS; then features=$features,+harden-sls-ijmp,+harden-sls-ret; fi
if has CALL_PADDING; then
	padding=$(option FUNCTION_PADDING_BYTES)
	set -- "$@" "-Zpatchable-function-entry=$padding,$padding"
fi
set -- "$@" "-Ctarget-feature=$features"

# It names what it emits as it is told, in the directory where it runs.
compile() {
	name=$1
	shift
	quiet "$name" env -C "$base" -i PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 "$rustc" --target=./target.json -L . \
		--crate-name "$name" "$@"
}

key=$({ printf '%s\n' "$@" && cat "$sources/target.json" && "$rustc" -vV; } | sha256sum | cut -c 1-16)
base=$kept/rust-$key
rm -rf "$work/crates"
mkdir -p "$work/crates" "$kept"
if ! [ -e "$base/core.o" ]; then
	rm -rf "$base"
	mkdir "$base"
	cp "$sources/target.json" "$base"
	printf '%s\n' '#![no_std]' '#![feature(compiler_builtins)]' '#![compiler_builtins]' \
		'#![allow(internal_features)]' >"$base/compiler_builtins.rs"
	# The object last: with it everything is there.
	compile core "$@" --cap-lints allow --edition 2024 --emit=metadata=libcore.rmeta,obj=core.part.o \
		--cfg no_fp_fmt_parse "$library/core/src/lib.rs"
	compile compiler_builtins "$@" --cap-lints allow --edition 2021 --emit=metadata=libcompiler_builtins.rmeta \
		compiler_builtins.rs
	mv "$base/core.part.o" "$base/core.o"
fi

# What a crate is compiled to.
emit() {
	echo "--emit=obj=$work/crates/$1.o,metadata=$work/crates/lib$1.rmeta"
}
compile bitflags "$@" --cap-lints allow --edition 2021 "$(emit bitflags)" "$sources/bitflags/src/lib.rs"
compile strongroom_core "$@" -L "$work/crates" --edition 2024 "$(emit strongroom_core)" \
	"--extern=bitflags=$work/crates/libbitflags.rmeta" "$sources/strongroom-core/src/lib.rs"
compile strongroom_driver "$@" -L "$work/crates" --edition 2024 "$(emit strongroom_driver)" --cfg strongroom_kernel \
	"--extern=strongroom_core=$work/crates/libstrongroom_core.rmeta" "$sources/strongroom-driver/src/lib.rs"

# The names of an object's symbols of these kinds.
symbols() {
	nm "$2" | awk -v kinds="$1" 'NF >= 2 && index(kinds, $(NF - 1)) { print $NF }'
}

# One object of all, without what nothing needs.
cd "$work/crates"
set --
for name in $(symbols T strongroom_driver.o | grep '^strongroom_'); do
	set -- "$@" -u "$name"
done
quiet ld ld -r --gc-sections "$@" -o all.o bitflags.o strongroom_core.o strongroom_driver.o "$base/core.o"
# objtool wants the names of local functions, which --strip-unneeded takes; the names of undefined ones
# that only removed sections used have to go.
quiet objcopy objcopy --strip-unneeded --remove-section=.comment all.o needed.o
symbols U needed.o | sort -u >used
symbols U all.o | sort -u | comm -23 - used >unused
quiet objcopy objcopy --strip-debug --strip-symbols=unused --remove-section=.comment all.o whole.o
# And without a panic.
panics=$(symbols tTU whole.o | grep -e panic -e '^sr_bug$' | tr '\n' ' ') || true
[ -z "$panics" ] || fail "the driver's Rust can panic: $panics"
mv whole.o "$object"
