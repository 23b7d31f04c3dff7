# Two targets: `train` runs the pipeline, `serve` answers requests from a registered version.
#   docker build --target train -t llmsrec-train .
#   docker build --target serve -t llmsrec-serve .
#   docker run -p 8080:8080 -e MLFLOW_TRACKING_URI=http://mlflow:5000 llmsrec-serve
FROM python:3.11-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv && useradd --create-home --uid 1000 llmsrec
WORKDIR /app
COPY requirements-torch.txt requirements.txt ./
# Another build of torch (CUDA, CPU only) is chosen by another requirements-torch.txt.
RUN pip install -r requirements-torch.txt && pip install -r requirements.txt

FROM base AS train
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY --chown=llmsrec . .
RUN pip install --no-deps --editable . && chown llmsrec /app
USER llmsrec
CMD ["dvc", "repro"]

FROM base AS serve
ENV MODEL_URI=models:/llm-srec@candidate MLFLOW_TRACKING_URI=http://mlflow:5000 MLFLOW_DISABLE_TELEMETRY=true
USER llmsrec
EXPOSE 8080
# /ping answers only once the model is loaded
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/ping', timeout=2)"
CMD ["sh", "-c", "exec mlflow models serve -m \"$MODEL_URI\" --env-manager local --host 0.0.0.0 --port 8080"]
