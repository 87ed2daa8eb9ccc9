# The commands a user needs; each installs what is missing, builds and runs. Arguments go in ARGS:
#   make chat ARGS="-m /path/to/model --temp 0"
ARGS ?=
FUZZ_SECONDS ?= 10
JOBS ?= $(shell nproc)

.PHONY: chat serve test bench build pebble soak sanitize thread-build fuzz fuzz-build format clean deps deps-test

chat: build
	./build/moebius chat $(ARGS)

serve: build
	./build/moebius serve $(ARGS)

build: deps
	cmake -S . -B build -G Ninja
	cmake --build build --target moebius -j $(JOBS)

# Trains models/pebble anew, from nothing, in a little more than an hour on two idle cores; started again, it goes on
# where it was.
pebble: build
	scripts/make_pebble.sh

# Every test, every fuzz target for FUZZ_SECONDS, and the first hybrid cases under the thread sanitizer.
test: deps-test fuzz-build thread-build
	cmake -S . -B build -G Ninja -DMOEBIUS_FUZZERS=build-fuzz -DMOEBIUS_FUZZ_SECONDS=$(FUZZ_SECONDS) \
	  -DMOEBIUS_THREAD_BUILD=build-thread
	cmake --build build -j $(JOBS)
	ctest --test-dir build --output-on-failure -j $(JOBS)

bench: deps
	cmake -S . -B build -G Ninja
	cmake --build build -j $(JOBS)
	for bench in build/bench_*; do [ -x $$bench ] && $$bench || exit 1; done

# All cases of staging, experts on disk, the hybrid, the scheduler and training on a device under the thread sanitizer.
soak: thread-build
	build-thread/staging_test
	build-thread/disk_tier_test
	build-thread/hybrid_soak_test
	build-thread/scheduler_soak_test
	build-thread/device_training_test

thread-build: deps-test
	cmake -S . -B build-thread -G Ninja -DMOEBIUS_SANITIZE=thread -DMOEBIUS_CUDA=OFF
	cmake --build build-thread -j $(JOBS) --target thread_tests

# The whole suite under the address and undefined-behaviour sanitizers (about four times slower).
sanitize: deps-test
	cmake -S . -B build-sanitize -G Ninja -DMOEBIUS_SANITIZE=address,undefined -DMOEBIUS_CUDA=OFF
	cmake --build build-sanitize -j $(JOBS)
	ctest --test-dir build-sanitize --output-on-failure -j $(JOBS)

fuzz-build: deps-test
	cmake -S . -B build-fuzz -G Ninja -DMOEBIUS_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++
	cmake --build build-fuzz -j $(JOBS)

# Only the fuzz targets, for example: make fuzz FUZZ_SECONDS=600
fuzz: fuzz-build
	for target in build-fuzz/fuzz_*; do $$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 || exit 1; done

format:
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

clean:
	rm -rf build build-fuzz build-thread build-sanitize

deps:
	@scripts/install_deps.sh

deps-test:
	@scripts/install_deps.sh test
