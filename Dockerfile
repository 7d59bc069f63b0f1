# syntax=docker/dockerfile:1
# Two stages from one base, named by digest: the first has pip, a build backend and the sources; the second has neither.

FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

RUN python -m venv /build/tools && python -m venv --without-pip /app
COPY infra/requirements/lint.txt infra/requirements/runtime.txt ./
RUN /build/tools/bin/python -m pip install --no-deps --require-hashes --only-binary :all: -r lint.txt \
    && /build/tools/bin/python -m pip --python /app/bin/python install --no-deps --require-hashes --only-binary :all: --compile -r runtime.txt

COPY pyproject.toml README.md CHANGELOG.md LICENSE SECURITY.md ./
COPY steward steward
COPY handlers handlers
COPY migrations migrations
RUN /build/tools/bin/python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && /build/tools/bin/python -m pip --python /app/bin/python install --no-index --no-deps --compile dist/*.whl

FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

LABEL org.opencontainers.image.title="majordomo-steward" org.opencontainers.image.licenses="MIT"
RUN python -m pip uninstall --yes --quiet pip \
    && groupadd --gid 10001 steward \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/steward --shell /usr/sbin/nologin steward \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/steward
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

USER 10001:10001
WORKDIR /var/lib/steward
VOLUME /var/lib/steward
# Callers, the viewer where VIEW_AUTH is set, and Butler (`butler serve`), which the same image is.
EXPOSE 7680 7681 7690
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; butler = b'\\0butler\\0' in open('/proc/1/cmdline', 'rb').read(); port = os.environ.get('BUTLER_PORT') or 7690 if butler else os.environ.get('PORT') or 7680; c = http.client.HTTPConnection('127.0.0.1', int(port), timeout=3); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["steward"]
CMD ["serve"]
