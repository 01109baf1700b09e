# docker build -t clsl . && docker run --rm -p 8888:8888 clsl   (JupyterLab; ./reproduce.sh quick instead of lab reproduces)
FROM python:3.12-slim
RUN useradd --create-home student
USER student
WORKDIR /home/student/clsl
COPY --chown=student . .
RUN ./reproduce.sh install
EXPOSE 8888
ENTRYPOINT ["./reproduce.sh"]
CMD ["lab", "--ip=0.0.0.0", "--no-browser"]
