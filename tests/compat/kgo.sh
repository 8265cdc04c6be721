# franz-go's own kgo tests, run against the broker and reported test by test. Sourced by run.

# regex NAME: a pattern for go test's -run and -skip that matches this test alone.
kgo_regex() { sed 's,[.+()],\\&,g; s,[^/][^/]*,^&$,g' <<< "$1"; }

run_kgo() {
  if ! has kgo; then
    skip "kgo: $(why_not kgo)"
    return
  fi
  local began=$SECONDS out=$logs/kgo skips= name reason status words seconds=0
  if [ -z "${COMPAT_ALL:-}" ]; then
    while read -r name reason; do
      name=${name#kgo/}
      skips+="${skips:+|}$(kgo_regex "$name")"
    done < <(grep '^kgo/' "$here/skipped.txt")
  fi
  # The tests read the package's own sources, so they run in its directory.
  (cd "$(cat "$cache/kgo.dir")" &&
    KGO_SEEDS=$BOOTSTRAP KGO_TEST_RF=1 KGO_TEST_RECORDS=${KGO_TEST_RECORDS:-10000} KGO_TEST_MAX_TOPIC_PARTS=7 KGO_LOG_LEVEL=none \
      timeout -k 5 660 "$kgo_test" -test.v -test.count=1 -test.timeout 600s ${skips:+-test.skip "$skips"} ${KGO_RUN:+-test.run "$KGO_RUN"}) \
    > "$out" 2>&1 || status=$?

  # Names that no test has are a list gone stale.
  "$kgo_test" -test.list . > "$out.list"
  while read -r name reason; do
    name=${name#kgo/}
    if ! grep -qx "${name%%/*}" "$out.list"; then fail "kgo/$name: skipped.txt names a test that is not there"; fi
    if [ -z "${COMPAT_ALL:-}" ]; then skip "kgo/$name: $reason"; fi
  done < <(grep '^kgo/' "$here/skipped.txt")

  # Top-level tests one by one, and subtests where they did not pass. Fuzz seeds and benchmarks judge no broker.
  while read -r words name seconds; do
    seconds=${seconds//[()]/}
    case $words in
      PASS:) if [[ $name != */* ]]; then pass "kgo/$name ($seconds)"; fi ;;
      SKIP:) if reason=$(listed "kgo/$name"); then skip "kgo/$name: $reason"; else fail "kgo/$name skipped itself, and skipped.txt does not name it"; fi ;;
      FAIL:)
        fail "kgo/$name ($seconds): see $out"
        sed -n "/^=== NAME  ${name//\//\\/}\$/,/^===\|^---/p" "$out" | grep -v '^===\|^---' | head -4 | cut -c1-300 | sed 's/^/     | /'
        ;;
    esac
  done < <(sed -nE 's/^ *--- ((PASS|FAIL|SKIP): Test.*)/\1/p' "$out")
  if [ -n "${status:-}" ]; then
    if grep -qE '^(panic:|fatal error:)|^signal' "$out" || [ "$status" = 124 ]; then
      fail "kgo did not finish (exit $status): see $out, which has"
      grep -nE -A2 '^(panic:|fatal error:)' "$out" | head -6 | sed 's/^/     | /'
    fi
  fi
  echo "kgo took $((SECONDS - began)) s"
}
