# cyyber: branded lab VMs for cyber-security teaching.
#
#   make demo     prepare this host, build a lab, start a VM of it, save a picture of its screen
#   make test     prepare this host, run every test
#   make help     the rest
#
# Everything works as root or through sudo, and can be repeated.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PREFIX      ?= /usr/local
SYSCONFDIR  ?= /etc
DESTDIR     ?=
BINDIR       = $(DESTDIR)$(PREFIX)/bin
SHAREDIR     = $(DESTDIR)$(PREFIX)/share
UNITDIR      = $(DESTDIR)$(PREFIX)/lib/systemd/system
ZSHDIR       = $(SHAREDIR)/zsh/site-functions

SUDO  := $(if $(filter-out 0,$(shell id -u)),sudo)
# Found when it is needed: `make setup` may have installed it just before.
CARGO  = cargo=$$(templates/host/find-cargo.sh) && PATH="$${cargo%/*}:$$PATH" "$$cargo"
# Tests of VMs need root; cargo itself does not.
AS_ROOT = $(if $(SUDO),export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(SUDO);)
# Tests run on their own host: they neither see nor change what this one runs.
IN_WORLD = export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/tests/world.sh;
BINARY = target/release/cyyber
# Packer from HashiCorp's archive if the distribution has none: its licence is not free.
ifeq ($(PACKER_REPO),yes)
export CYYBER_ACCEPT_PACKER_LICENSE := 1
endif

# Installs the template $1 as the file $2.
fill_in = sed 's|@BINDIR@|$(PREFIX)/bin|g; s|@SYSCONFDIR@|$(SYSCONFDIR)|g' templates/host/$1 | \
	    $(SUDO) install -D -m 644 /dev/stdin $2

.PHONY: help
help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: setup
setup: ## prepare this host: packages, libvirt, directories, networks (DRY_RUN=1: print the changes only)
	@templates/host/setup.sh $(if $(DRY_RUN),--check || [ $$? = 1 ],$(if $(filter image demo bench,$(MAKECMDGOALS)),--need-packer) $(if $(filter bench,$(MAKECMDGOALS)),--with-tests))

.PHONY: image
image: setup ## build the Debian cloud image that labs/demo.json uses (MIRROR=URL: from that mirror of Debian)
	@$(SUDO) templates/cloud-image/make-image.sh $(if $(MIRROR),--mirror "$(MIRROR)")

.PHONY: build
build: ## compile the program
	@$(CARGO) build --release --locked

.PHONY: demo
demo: setup image ## build a lab and start an instance of it
	@$(MAKE) --no-print-directory build
	@$(SUDO) labs/demo.sh $(BINARY)

.PHONY: test
test: ## run the tests, or those with ONLY="NAME..." in their names
	@tests/run.sh $(ONLY)

.PHONY: test-all
test-all: ## run all tests, with more rounds and the slow ones
	@tests/run.sh --all $(ONLY)

.PHONY: test-desktop
test-desktop: setup image ## build a lab with a desktop and save its screen (target/tmp/*.png)
	@$(IN_WORLD) $(CARGO) test --locked --test suite -- --include-ignored booted::desktop

.PHONY: test-labs
test-labs: setup image ## build the five labs, or ONLY="lab02...", and do what their instructions say
	@export CYYBER_TEST_LABS="$(ONLY)"; $(IN_WORLD) $(CARGO) test --locked --test suite -- --include-ignored booted::shipped_labs

.PHONY: bench
bench: setup image ## compare speed with virsh, qemu-img, Packer and websockify, and forks with boots
	@tests/quick-guest.sh
	@# One that misses its bound, or cannot be run, keeps no other from being printed.
	@$(AS_ROOT) $(CARGO) bench --locked --no-fail-fast

.PHONY: reference
reference: ## regenerate man/, completions/ and the configuration's schema
	@$(CARGO) run --locked --quiet --example reference

.PHONY: install
install: build ## install program, man pages, completions, examples, and a reaper pass every minute
	$(SUDO) install -D -m 755 $(BINARY) $(BINDIR)/cyyber
	$(SUDO) install -d $(SHAREDIR)/man/man1 $(SHAREDIR)/man/man5 $(SHAREDIR)/cyyber/labs
	$(SUDO) install -m 644 man/*.1 $(SHAREDIR)/man/man1/
	$(SUDO) install -m 644 man/*.5 $(SHAREDIR)/man/man5/
	$(SUDO) install -D -m 644 completions/cyyber.bash $(SHAREDIR)/bash-completion/completions/cyyber
	$(SUDO) install -D -m 644 completions/_cyyber $(ZSHDIR)/_cyyber
	$(SUDO) install -D -m 644 completions/cyyber.fish $(SHAREDIR)/fish/vendor_completions.d/cyyber.fish
	$(SUDO) cp -r --no-preserve=mode,ownership labs/*.json labs/lab?? $(SHAREDIR)/cyyber/labs/
	$(SUDO) install -m 755 labs/from-docker.sh $(SHAREDIR)/cyyber/labs/
	$(SUDO) install -d $(SHAREDIR)/cyyber/monitoring
	$(SUDO) install -m 644 templates/monitoring/* $(SHAREDIR)/cyyber/monitoring/
	$(SUDO) install -d $(DESTDIR)$(SYSCONFDIR)/cyyber
	@# A configuration that is there is the instructor's, and so is what belongs to it.
	[ -e $(DESTDIR)$(SYSCONFDIR)/cyyber/labs-config.json ] || \
	    $(SUDO) cp -r --no-preserve=mode,ownership labs/labs-config.json labs/lab?? $(DESTDIR)$(SYSCONFDIR)/cyyber/
	$(call fill_in,cyyber.cron,$(DESTDIR)$(SYSCONFDIR)/cron.d/cyyber)
	$(call fill_in,cyyber.logrotate,$(DESTDIR)$(SYSCONFDIR)/logrotate.d/cyyber)
	$(call fill_in,cyyber-reap.service,$(UNITDIR)/cyyber-reap.service)
	$(call fill_in,cyyber-reap.timer,$(UNITDIR)/cyyber-reap.timer)
	$(call fill_in,cyyber-gateway.service,$(UNITDIR)/cyyber-gateway.service)
	@# Not for a package, nor for a trial in some other place.
	if [ -d /run/systemd/system ] && [ "$(DESTDIR)$(SYSCONFDIR)" = /etc ]; then \
	    $(SUDO) systemctl daemon-reload; $(SUDO) systemctl enable --now cyyber-reap.timer; fi

.PHONY: uninstall
uninstall: ## remove that and the lab networks; instances and images are kept
	@# What a trial in some other place has not touched.
	if [ "$(DESTDIR)$(SYSCONFDIR)" = /etc ]; then templates/host/setup.sh --remove; \
	    [ ! -d /run/systemd/system ] || [ ! -e $(UNITDIR)/cyyber-reap.timer ] || \
	        $(SUDO) systemctl --quiet disable --now cyyber-reap.timer cyyber-gateway.service || true; fi
	$(SUDO) rm -f $(BINDIR)/cyyber $(SHAREDIR)/man/man1/cyyber{,-*}.1 $(SHAREDIR)/man/man5/labs-config.json.5 \
	    $(SHAREDIR)/bash-completion/completions/cyyber $(ZSHDIR)/_cyyber \
	    $(SHAREDIR)/fish/vendor_completions.d/cyyber.fish $(UNITDIR)/cyyber-{reap.{service,timer},gateway.service} \
	    $(DESTDIR)$(SYSCONFDIR)/{cron.d,logrotate.d}/cyyber
	$(SUDO) rm -rf $(SHAREDIR)/cyyber
	@echo 'kept: instances, images and state (/var/lib/libvirt/images/cyyber-labs, /var/lib/cyyber), $(SYSCONFDIR)/cyyber,'
	@echo '      packages installed by apt, members of the groups libvirt and kvm. To remove instances too, run'
	@echo '      `cyyber instance cleanup` before this.'

.PHONY: deb
deb: build ## build a Debian package in target/debian
	@templates/package/make-deb.sh $(BINARY) target/debian

.PHONY: clean
clean: ## remove compiled files
	rm -rf target
