# One image for every part: `docker run IMAGE agent|router|init|exporter|ctl ...` says which.
#
#   docker build -t pgherd:17 .
#
# Images and versions are arguments, so that they can be pinned or mirrored.
ARG BASE_IMAGE=debian:trixie-slim
ARG RUST_IMAGE=rust:1-trixie
# Where the program comes from: `compiled` here, or `prebuilt` as target/image/pgherd of the context.
ARG BINARY=compiled

# Everything here is understood by Docker's builder without BuildKit, too: Debian's docker.io brings no
# other. So there are no cache mounts, and a file that may be missing is named by a pattern, beside one
# that is always there: that builder makes every stage, also the one that nobody uses.
FROM ${RUST_IMAGE} AS compiled
# Cargo's; `dev` compiles in half the time.
ARG PROFILE=release
WORKDIR /src
COPY . .
RUN cargo build --profile "${PROFILE}" --locked --package pgherd-cli --target-dir /build \
    && cp /build/*/pgherd /pgherd && rm -rf /build

FROM scratch AS prebuilt
COPY LICENSE target/image/pgher[d] /

FROM ${BINARY} AS program

# PostgreSQL as Debian builds it, without what a container has no use for: the just-in-time compiler
# (120 MB of LLVM), headers, and Debian's way of managing clusters (Perl).
FROM ${BASE_IMAGE} AS postgresql
ARG PG_MAJOR=17
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 postgresql-common \
    && sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' \
        /etc/postgresql-common/createcluster.conf \
    && apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 \
        "postgresql-${PG_MAJOR}" locales \
    && localedef -i en_US -c -f UTF-8 en_US.UTF-8 \
    && cd "/usr/lib/postgresql/${PG_MAJOR}/lib" && rm -rf bitcode llvmjit* pgxs \
    && mkdir -p /out/usr/lib/postgresql /out/usr/share/postgresql /out/usr/lib/locale \
    && cp -a "/usr/lib/postgresql/${PG_MAJOR}" /out/usr/lib/postgresql/ \
    && cp -a "/usr/share/postgresql/${PG_MAJOR}" /out/usr/share/postgresql/ \
    && cp -a /usr/lib/locale/locale-archive /out/usr/lib/locale/ \
    && rm -rf "/out/usr/share/postgresql/${PG_MAJOR}/man" \
    # The packages that its libraries are from: what the last stage has to install.
    && find /out -type f \( -perm -u+x -o -name '*.so*' \) -exec ldd {} + 2>/dev/null \
        | sed -n 's/.* => \(\/[^ ]*\).*/\1/p' | sort -u | xargs -r realpath | sort -u \
        | xargs -r dpkg-query -S 2>/dev/null | cut -d: -f1 | sort -u \
        | grep -v -e '^postgresql' -e '^perl' -e '^libperl' -e '^python' -e '^libpython' \
            -e '^tcl' -e '^libtcl' -e llvm > /out/packages

FROM ${BASE_IMAGE}
ARG PG_MAJOR=17
COPY --from=postgresql /out/ /
# The account has the number that Spilo's has, so that its volumes can be taken over.
RUN apt-get update -qq \
    && xargs -r apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 \
        ca-certificates curl tzdata < /packages \
    && rm -rf /packages /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /usr/share/doc/* \
        /usr/share/man/* \
    && groupadd --gid 103 postgres \
    && useradd --uid 101 --gid 103 --home-dir /home/postgres --create-home postgres \
    && install -d -o postgres -g postgres -m 0700 /home/postgres/pgdata
COPY --from=program /pgherd /usr/local/bin/pgherd
ENV PATH="/usr/lib/postgresql/${PG_MAJOR}/bin:${PATH}" \
    PGVERSION="${PG_MAJOR}" \
    LANG=en_US.UTF-8
USER postgres
WORKDIR /home/postgres
VOLUME /home/postgres/pgdata
EXPOSE 5432 5433 7000 8008 9187
# SIGTERM is a clean hand-over: the leader lets a replica go first, and then stops.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["pgherd", "health"]
ENTRYPOINT ["pgherd"]
CMD ["agent"]
