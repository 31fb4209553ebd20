# The ways to build, see and test SoftMig; each works from nothing on Debian 12. As root the Debian
# packages that are missing are installed first; else the command that would is printed.

BUILD ?= build
JOBS ?= $(shell nproc)
SOAK_MINUTES ?= 60
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := build
.PHONY: build demo test check packages deps install gpu-test card bench bench-report asan tsan clang fuzz model \
  chaos soak lab-packed coverage aarch64 old-worlds clean help

CMAKE_BUILD := cmake --build $(BUILD) --parallel $(JOBS)
DEMO_PARTS := softmig softmig_cli sim_cuda_130 sim_nvml_130

# A folder that was configured before keeps its generator.
makefiles = $(if $(wildcard $(1)/CMakeCache.txt),,-G "Unix Makefiles")
configure = cmake -S . -B $(1) $(call makefiles,$(1))
preset = cmake --preset $(1) $(call makefiles,build-$(1))

build: ## build everything: $(BUILD)/libsoftmig.so, $(BUILD)/softmig, the tests
	@tools/deps.sh build
	@BUILD=$(BUILD) JOBS=$(JOBS) ./build.sh

demo: ## show what a slice does, on the real GPU or on a simulated one
	@tools/deps.sh build
	@echo "Building SoftMig (a minute or two the first time)"
	@$(call configure,$(BUILD)) >$(BUILD).log 2>&1 && \
	  $(CMAKE_BUILD) --target $(DEMO_PARTS) >>$(BUILD).log 2>&1 || { tail -n 40 $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log
	@$(BUILD)/softmig demo --plot $(BUILD)/demo.svg

test: ## everything that needs no GPU; the last line counts
	@tools/deps.sh test
	@BUILD=$(BUILD) JOBS=$(JOBS) ./build.sh
	@tools/run_tests.sh $(BUILD)

check: ## format, shell scripts, layers, exports, clang-tidy
	@tools/deps.sh check
	@BUILD=$(BUILD) JOBS=$(JOBS) ./build.sh
	tools/check_format.sh .
	tools/check_layers.py .
	tools/check_exports.sh $(BUILD)/libsoftmig.so
	tools/check_tidy.sh $(BUILD)

packages: ## build deb and rpm packages, in $(BUILD)/packages
	@tools/deps.sh packages
	$(call configure,$(BUILD))
	$(CMAKE_BUILD) --target packages

deps: ## install the Debian packages that are missing
	@tools/deps.sh check
	@echo "All packages are there."

install: build ## as root: put it on this node, or a newer one (softmig install)
	$(BUILD)/softmig install

gpu-test: build ## the test programs on the real card
	tests/gpu/run.py --build $(BUILD) --real --out $(BUILD)/gpu-results

card: build ## everything that needs a real card, most important first: an hour and a half
	tests/card.py --build $(BUILD) --out $(BUILD)/card-results

bench: build ## what SoftMig costs, on the real card
	bench/report.py --build $(BUILD) --real --markdown $(BUILD)/benchmarks.md

bench-report: build ## the benchmark report on the real card, as root: 8 minutes
	bench/virt_report.py --build $(BUILD) --real --out $(BUILD)/bench-report

asan tsan: ## the unit tests under AddressSanitizer and UBSan, or under ThreadSanitizer
	@tools/deps.sh test
	$(call preset,$@)
	cmake --build --preset $@ --parallel $(JOBS)
	@tools/run_tests.sh build-$@ -R '^unit$$'

clang: ## build and test with clang
	@tools/deps.sh test
	$(call preset,$@)
	cmake --build --preset $@ --parallel $(JOBS)
	@tools/run_tests.sh build-$@

fuzz: build ## each parser for a minute, or FUZZ_SECONDS
	@tools/deps.sh test
	$(call configure,$(BUILD)) -DSOFTMIG_FUZZ_SECONDS=$(FUZZ_SECONDS) >/dev/null
	$(CMAKE_BUILD) --target fuzz

model: ## every interleaving of the shared region's protocol, larger bounds: 15 minutes, 2 GiB
	@tools/deps.sh build
	$(call configure,$(BUILD))
	$(CMAKE_BUILD) --target model_large

chaos: build ## SIGKILL at every instruction of the protocol, 64 processes for ten minutes
	$(CMAKE_BUILD) --target chaos

soak: build ## a mixed load on the simulated GPU, SOAK_MINUTES of it (60)
	tests/gpu/soak.py --build $(BUILD) --sim 1x80G --minutes $(SOAK_MINUTES)

lab-packed: ## as root: the Slurm lab that is carried to a card, on a bare Debian 13 and a simulated GPU
	@tools/deps.sh lab
	@BUILD=$(BUILD) JOBS=$(JOBS) ./build.sh
	tests/slurm/packed.sh trixie $(BUILD)

coverage: ## what unit tests and fuzzers reach; HTML in build-coverage/html
	@tools/deps.sh test
	@tools/coverage.sh build-coverage

aarch64: ## build the library for aarch64 and test it under qemu-user, in build-aarch64
	@tools/deps.sh aarch64
	@JOBS=$(JOBS) tests/aarch64/run.sh build-aarch64

old-worlds: build ## other C libraries: Debian 11 and 10, older Ubuntus, musl, 32-bit programs, a missing library
	@tools/deps.sh test
	ctest --test-dir $(BUILD) --verbose -R '^preload\.(old_glibc|world)$$'

clean: ## remove what was built
	rm -rf $(BUILD) build-asan build-tsan build-clang build-coverage build-aarch64

help: ## this list
	@sed -n 's/^\([a-z0-9 -]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | sed 's/$$(BUILD)/$(BUILD)/g' | expand -t 24
