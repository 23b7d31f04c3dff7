# Four targets, each with no more than it needs (docs/shipping.md):
#   train        the pipeline: dvc repro
#   serve        answers requests from a registered version, on ONNX Runtime: no torch
#   serve-torch  the same with torch, for versions whose language model runs on that alone
#   mlflow       the MLflow server of compose.yaml, on PostgreSQL and S3
# requirements.txt pins every package for all of them; the requirements in docker/ only choose among its names.
FROM python:3.11.14-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true
RUN python3 -m venv /opt/venv && useradd --create-home --user-group --uid 1000 llmsrec
WORKDIR /app

FROM base AS train
# Another build of torch (CUDA, CPU only) is chosen by another requirements-torch.txt.
COPY requirements-torch.txt requirements.txt ./
RUN pip install -r requirements-torch.txt && pip install -r requirements.txt
COPY . .
# DVC works here without git: the image is one state of the repository.
RUN pip install --no-deps --editable . \
    && dvc config --local core.no_scm true && dvc config --local core.autostage false \
    && chown -R 1000:1000 /app
USER 1000:1000
CMD ["dvc", "repro"]

FROM base AS mlflow
COPY requirements.txt docker/requirements-mlflow.txt ./
RUN pip install -c requirements.txt -r requirements-mlflow.txt
USER 1000:1000
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=2)"]
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "2"]

FROM base AS serve
COPY requirements.txt docker/requirements-serve.txt docker/serve.py ./
RUN pip install -c requirements.txt -r requirements-serve.txt
# What verifies a version before its own code is run, and what stands before it afterwards.
COPY src/llmsrec llmsrec
ENV MODEL_URI=models:/llm-srec@staging MLFLOW_TRACKING_URI=http://mlflow:5000
USER 1000:1000
EXPOSE 8080
# Green once a version answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ping', timeout=2)"]
CMD ["python", "serve.py"]

FROM serve AS serve-torch
USER 0:0
COPY requirements-torch.txt docker/requirements-serve-torch.txt ./
RUN pip install -c requirements.txt -r requirements-torch.txt -r requirements-serve-torch.txt
USER 1000:1000
